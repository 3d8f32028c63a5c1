package record

import (
	"iter"
	"strconv"

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
	}
	for _, direction := range []string{FromClient, ToClient} {
		m.Discarded.WithLabelValues(direction)
	}
	return m
}

// Expect creates the series that may come from a config: for each moment that has hooks, and for
// each worker of a range of slots, which have processes or not. So each series starts at 0, and Prometheus sees
// its first count as an increase.
func (m *metrics) Expect(moments iter.Seq[string], first, last int, processes bool) {
	for moment := range moments {
		m.Hook.WithLabelValues(moment)
		for _, result := range []string{HookOK, HookFailed} {
			m.HookRuns.WithLabelValues(moment, result)
		}
	}
	for slot := first; slot <= last; slot++ {
		label := strconv.Itoa(slot)
		m.WorkerFailures.WithLabelValues(label)
		if !processes {
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
	return []prometheus.Collector{m.wait, m.Hold, m.Hook, m.HookRuns, m.WorkerFailures, m.ServiceFailures, m.ServiceRestarts, m.EventsDropped, m.Discarded}
}

// The directions of bytes: values of the label "direction".
const (
	FromClient = "in"
	ToClient   = "out"
)
