package tcplock

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The metrics of all locks, on the registry of each config. docs/metrics.md explains
// them. They belong to the locks, not to a config: so totals survive a reload, and are
// forgotten with their lock. Labels are names from the config and words from this
// package, never anything of a client's.

const metricsPrefix = "caddy_tcplock_"

// metrics are what a lock counts as it happens; all else is read when somebody asks. They
// have no label with the lock's name, which a reload may change: the collector adds it.
type metrics struct {
	wait, hold      prometheus.Histogram
	hook            *prometheus.HistogramVec // by moment
	hookRuns        *prometheus.CounterVec   // by moment and result
	workerFailures  *prometheus.CounterVec   // by slot
	serviceFailures *prometheus.CounterVec   // by slot
	serviceRestarts *prometheus.CounterVec   // by slot and reason
	eventsDropped   prometheus.Counter
	discarded       *prometheus.CounterVec // by direction
}

// The results of a hook.
const (
	hookOK     = "ok"
	hookBroken = "failed"
)

func newMetrics() *metrics {
	histogram := func(name, help string) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{
			Name: metricsPrefix + name, Help: help,
			Buckets: []float64{.001, .005, .025, .1, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600},
			// 160 buckets of this factor are what lies between the threshold and 1024 s. Times
			// that spread wider make them coarser; a reset would take the totals with it.
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramZeroThreshold:   1.0 / 1024,
			NativeHistogramMaxBucketNumber: 160,
		}
	}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: metricsPrefix + name, Help: help}
	}
	m := &metrics{
		wait:            prometheus.NewHistogram(histogram("wait_seconds", "Time in line of connections that were admitted.")),
		hold:            prometheus.NewHistogram(histogram("hold_seconds", "Time with a slot, without its hooks.")),
		hook:            prometheus.NewHistogramVec(histogram("hook_seconds", "Duration of hooks."), []string{"moment"}),
		hookRuns:        prometheus.NewCounterVec(counter("hook_runs_total", "Hooks that have run."), []string{"moment", "result"}),
		workerFailures:  prometheus.NewCounterVec(counter("worker_failures_total", "Times that a worker could not be reached."), []string{"slot"}),
		serviceFailures: prometheus.NewCounterVec(counter("service_failures_total", "Failed starts of a slot's process."), []string{"slot"}),
		serviceRestarts: prometheus.NewCounterVec(counter("service_restarts_total", "Restarts of a slot's process."), []string{"slot", "reason"}),
		eventsDropped:   prometheus.NewCounter(counter("events_dropped_total", "Events whose handlers were too slow for them.")),
		discarded:       prometheus.NewCounterVec(counter("discarded_bytes_total", "Bytes that were thrown away."), []string{"direction"}),
	}
	for _, direction := range []string{fromClient, toClient} {
		m.discarded.WithLabelValues(direction)
	}
	return m
}

// expect makes the series of a config that there may be, so that the first of each kind
// shows as an increase.
func (m *metrics) expect(c *claim) {
	for moment := range c.hooks {
		m.hook.WithLabelValues(moment)
		for _, result := range []string{hookOK, hookBroken} {
			m.hookRuns.WithLabelValues(moment, result)
		}
	}
	if !c.settings.pooled() {
		return
	}
	for slot := 1; slot <= c.settings.slots(); slot++ {
		label := strconv.Itoa(slot)
		m.workerFailures.WithLabelValues(label)
		if c.settings.Service == nil {
			continue
		}
		m.serviceFailures.WithLabelValues(label)
		for _, reason := range status.RestartReasons {
			m.serviceRestarts.WithLabelValues(label, reason)
		}
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.wait, m.hold, m.hook, m.hookRuns, m.workerFailures, m.serviceFailures, m.serviceRestarts, m.eventsDropped, m.discarded}
}

// collector collects the metrics of all locks there are.
type collector struct{}

// Describe says nothing: which locks there are is not known before they are asked.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (collector) Collect(out chan<- prometheus.Metric) {
	for _, l := range locksInForce() {
		name := l.name() // one for all series: the next instant the lock may have another
		l.collect(name, out)
		for _, c := range l.record.collectors() {
			prometheus.WrapCollectorWith(prometheus.Labels{"lock": name}, c).Collect(out)
		}
	}
}

var (
	slotsDesc    = newDesc("slots", "Connections that may be at the service at once.", "lock")
	heldDesc     = newDesc("held", "Connections that hold a slot.", "lock")
	waitingDesc  = newDesc("waiting", "Connections in line.", "lock")
	oldestDesc   = newDesc("oldest_wait_seconds", "How long the one in line that came first has been there.", "lock")
	leftOverDesc = newDesc("left_over", "Connections that lost their slot and still hang at the service.", "lock")
	pausedDesc   = newDesc("paused", "1 if the lock is paused.", "lock")
	failingDesc  = newDesc("failing", "1 if the lock's activate hooks refuse connections.", "lock")
	endedDesc    = newDesc("connections_total", "Connections that have ended.", "lock", "outcome")
	workerUpDesc = newDesc("worker_up", "1 if the slot's worker may be given a connection.", "lock", "slot")
	readyDesc    = newDesc("service_ready", "1 if the slot's process is ready.", "lock", "slot")
)

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(metricsPrefix+name, help, labels, nil)
}

// collect sends what is not counted as it happens.
func (l *lock) collect(name string, out chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, append([]string{name}, labels...)...)
	}
	s := l.queue.Stats() // not a snapshot: that copies all holders while the line stands still
	gauge(slotsDesc, float64(l.pool.slots()))
	gauge(heldDesc, float64(s.Held))
	gauge(waitingDesc, float64(s.Waiting))
	gauge(oldestDesc, s.OldestWait(time.Now()).Seconds())
	gauge(leftOverDesc, float64(l.leftOver.Load()))
	gauge(pausedDesc, oneIf(s.Paused))
	gauge(failingDesc, oneIf(l.failing() != nil))
	for i, outcome := range status.Outcomes {
		out <- prometheus.MustNewConstMetric(endedDesc, prometheus.CounterValue, float64(l.record.ended[i].Load()), name, outcome)
	}
	for _, worker := range l.pool.list() {
		if worker == nil {
			continue
		}
		w := worker.status()
		if w.State == status.WorkerRemoved { // it finishes its holder, and is not down
			continue
		}
		slot := strconv.Itoa(w.Slot)
		gauge(workerUpDesc, oneIf(w.State == status.WorkerUp || w.State == status.WorkerStopped), slot)
		if w.Process != nil {
			gauge(readyDesc, oneIf(w.Process.State == status.ProcessReady), slot)
		}
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
