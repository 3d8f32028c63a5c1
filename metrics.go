package tcplock

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/record"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The metrics of all locks, on the registry of each config. docs/metrics.md explains
// them. They belong to the locks, not to a config: so totals survive a reload, and are
// forgotten with their lock. Labels are names from the config and words from this
// package, never anything of a client's.

// collector collects the metrics of all locks there are.
type collector struct{}

// Describe says nothing: which locks there are is not known before they are asked.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (collector) Collect(out chan<- prometheus.Metric) {
	for _, l := range locksInForce() {
		name := l.name() // one for all series: the next instant the lock may have another
		l.collect(name, out)
		for _, c := range l.record.Collectors() {
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
	return prometheus.NewDesc(record.Prefix+name, help, labels, nil)
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
		out <- prometheus.MustNewConstMetric(endedDesc, prometheus.CounterValue, float64(l.record.Ended(i)), name, outcome)
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
