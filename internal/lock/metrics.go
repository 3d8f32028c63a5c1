package lock

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/record"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/version"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The metrics belong to a lock, not to a config. So totals survive a reload. Labels are names from the
// config, words from this package and versions: a client cannot choose them. docs/metrics.md explains them.

// Collector collects the metrics of all locks, and the versions in the binary.
type Collector struct{}

// Describe implements prometheus.Collector. It describes nothing: the metrics depend on the
// locks at the time of each scrape.
func (Collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (Collector) Collect(out chan<- prometheus.Metric) {
	v := version.Get()
	out <- prometheus.MustNewConstMetric(buildDesc, prometheus.GaugeValue, 1, v.Tcplock, v.Caddy, v.CaddyL4, v.Go)
	for _, l := range InForce() {
		name := l.Name() // once for all series: a reload may rename the lock meanwhile
		l.collect(name, out)
		for _, c := range l.record.Collectors() {
			prometheus.WrapCollectorWith(prometheus.Labels{"lock": name}, c).Collect(out)
		}
	}
}

var (
	buildDesc    = newDesc("build_info", "1, with the versions of tcplock, Caddy, caddy-l4 and Go in the binary.", "version", "caddy", "caddy_l4", "go")
	slotsDesc    = newDesc("slots", "Connections that may be at the service at once.", "lock")
	heldDesc     = newDesc("held", "Slots with a holder.", "lock")
	waitingDesc  = newDesc("waiting", "Connections in line.", "lock")
	oldestDesc   = newDesc("oldest_wait_seconds", "How long the waiter that came first has been in line, 0 if the line is empty.", "lock")
	leftOverDesc = newDesc("left_over", "Connections that lost their slot and are still open at the service.", "lock")
	pausedDesc   = newDesc("paused", "1 if the lock is paused and admits no connection.", "lock")
	failingDesc  = newDesc("failing", "1 if the lock's activate hooks refuse connections.", "lock")
	endedDesc    = newDesc("connections_total", "Connections that have ended, by outcome.", "lock", "outcome")
	workerUpDesc = newDesc("worker_up", "1 if a connection may get the slot of this worker.", "lock", "slot")
	readyDesc    = newDesc("service_ready", "1 if the slot's process is ready.", "lock", "slot")
)

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(record.Prefix+name, help, labels, nil)
}

// collect sends the gauges, and the counts of connections by outcome. The record has the other
// metrics.
func (l *Lock) collect(name string, out chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, append([]string{name}, labels...)...)
	}
	now := time.Now()
	s := l.queue.Stats() // not Snapshot: that copies all holders under the queue's mutex
	gauge(slotsDesc, float64(l.pool.Slots()))
	gauge(heldDesc, float64(s.Held))
	gauge(waitingDesc, float64(s.Waiting))
	gauge(oldestDesc, s.OldestWait(now).Seconds())
	gauge(leftOverDesc, float64(l.leftOver.Load()))
	gauge(pausedDesc, oneIf(s.Paused))
	gauge(failingDesc, oneIf(l.failing(now) != nil))
	for i, outcome := range status.Outcomes {
		out <- prometheus.MustNewConstMetric(endedDesc, prometheus.CounterValue, float64(l.record.Ended(i)), name, outcome)
	}
	for _, worker := range l.pool.All() {
		w := worker.Status()
		if w.State == status.WorkerRemoved { // it is not down: it only finishes its holder
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
