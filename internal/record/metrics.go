package record

import (
	"iter"
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Prefix is the start of each metric's name.
const Prefix = "caddy_tcplock_"

// metrics are the metrics that a lock must count as things happen. The others are read at a scrape.
// None has a label with the lock's name, since a reload may change it: the collector adds the label.
type metrics struct {
	wait, Hold      prometheus.Histogram
	Hook            *prometheus.HistogramVec // by moment
	HookRuns        *prometheus.CounterVec   // by moment and result
	WorkerFailures  *prometheus.CounterVec   // by slot
	ServiceFailures *prometheus.CounterVec   // by slot
	ServiceRestarts *prometheus.CounterVec   // by slot and reason
	EventsDropped   prometheus.Counter
	Discarded       *prometheus.CounterVec // by direction

	connects      atomic.Bool // the lock itself connects to the service, or did: the following two are collected
	Connect       prometheus.Histogram
	ConnectErrors *prometheus.CounterVec // by kind
}

// The results of a hook: values of the label "result".
const (
	HookOK     = "ok"
	HookFailed = "failed"
)

func newMetrics() *metrics {
	histogram := func(name, help string) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{
			Name: Prefix + name, Help: help,
			Buckets: []float64{.001, .005, .025, .1, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600},
			// 160 buckets of this factor cover the range from the threshold to 1024 s. Times
			// outside make the buckets coarser. The histogram is never reset, which would
			// lose the totals.
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramZeroThreshold:   1.0 / 1024,
			NativeHistogramMaxBucketNumber: 160,
		}
	}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: Prefix + name, Help: help}
	}
	m := &metrics{
		wait:            prometheus.NewHistogram(histogram("wait_seconds", "Time in line of connections that were admitted.")),
		Hold:            prometheus.NewHistogram(histogram("hold_seconds", "Time with a slot, without its hooks.")),
		Hook:            prometheus.NewHistogramVec(histogram("hook_seconds", "Duration of hooks."), []string{"moment"}),
		HookRuns:        prometheus.NewCounterVec(counter("hook_runs_total", "Hooks that have run."), []string{"moment", "result"}),
		WorkerFailures:  prometheus.NewCounterVec(counter("worker_failures_total", "Times that a worker could not be reached."), []string{"slot"}),
		ServiceFailures: prometheus.NewCounterVec(counter("service_failures_total", "Failed starts of a slot's process."), []string{"slot"}),
		ServiceRestarts: prometheus.NewCounterVec(counter("service_restarts_total", "Restarts of a slot's process."), []string{"slot", "reason"}),
		EventsDropped:   prometheus.NewCounter(counter("events_dropped_total", "Events whose handlers were too slow for them.")),
		Discarded:       prometheus.NewCounterVec(counter("discarded_bytes_total", "Bytes that were thrown away."), []string{"direction"}),
		Connect:         prometheus.NewHistogram(histogram("connect_seconds", "Time that it took to connect to the service.")),
		ConnectErrors:   prometheus.NewCounterVec(counter("connect_errors_total", "Times that the service could not be connected to."), []string{"kind"}),
	}
	for _, direction := range []string{FromClient, ToClient} {
		m.Discarded.WithLabelValues(direction)
	}
	return m
}

// Expected says which series may come from a config.
type Expected struct {
	Moments     iter.Seq[string] // that have hooks
	First, Last int              // the slots with workers
	Processes   bool             // the workers have processes
	Connects    bool             // the lock itself connects to the service
	Errors      []string         // kinds of errors when it does
}

// Expect creates these series. So each starts at 0, and Prometheus sees its first count as an increase.
func (m *metrics) Expect(e Expected) {
	if e.Connects {
		m.connects.Store(true)
		for _, kind := range e.Errors {
			m.ConnectErrors.WithLabelValues(kind)
		}
	}
	for moment := range e.Moments {
		m.Hook.WithLabelValues(moment)
		for _, result := range []string{HookOK, HookFailed} {
			m.HookRuns.WithLabelValues(moment, result)
		}
	}
	for slot := e.First; slot <= e.Last; slot++ {
		label := strconv.Itoa(slot)
		m.WorkerFailures.WithLabelValues(label)
		if !e.Processes {
			continue
		}
		m.ServiceFailures.WithLabelValues(label)
		for _, reason := range status.RestartReasons {
			m.ServiceRestarts.WithLabelValues(label, reason)
		}
	}
}

// Collectors returns all metrics of the lock that are counted here.
func (m *metrics) Collectors() []prometheus.Collector {
	all := []prometheus.Collector{m.wait, m.Hold, m.Hook, m.HookRuns, m.WorkerFailures, m.ServiceFailures, m.ServiceRestarts, m.EventsDropped, m.Discarded}
	if m.connects.Load() {
		all = append(all, m.Connect, m.ConnectErrors)
	}
	return all
}

// The directions of bytes: values of the label "direction".
const (
	FromClient = "in"
	ToClient   = "out"
)
