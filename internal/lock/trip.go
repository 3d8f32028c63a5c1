package lock

import (
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/record"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// trip is what log and events say of a connection.
type trip struct {
	position int // in line when it came, from 1; 0 if it did not have to wait
	waited   time.Duration
	hooked   time.Duration // how long its hooks have run
	held     time.Duration // how long it was at the service
	refused  string        // why it is refused; empty if it is not
	outcome  string        // how it ended, when that is settled; empty: it did not even join
	quiet    bool          // it has no line in the log, since there are too many like it
}

func (w *Waiter) log(level zapcore.Level, msg string, more ...zap.Field) {
	slot, _ := w.slot()
	w.lock.Logger().Log(level, msg, append([]zap.Field{
		zap.String("lock", w.lock.Name()),
		zap.String("client", w.conn.Address),
		zap.Int("slot", slot),
		zap.Uint64("connection", w.queued.ID),
	}, more...)...)
}

// reportEnd reports how the connection ended. It is called when Handle has returned and the slot
// is given back: before that, more bytes may be discarded.
func (w *Waiter) reportEnd() {
	if w.trip.outcome == "" {
		return // it did not even join
	}
	w.tellDiscarded()
	if access := w.lock.current.Load().access; access != nil && !w.trip.quiet {
		w.logEnd(access)
	}
}

// logsEnd reports whether reportEnd writes to the log.
func (w *Waiter) logsEnd() bool {
	return w.lock.current.Load().access != nil || w.conn.Traffic.DiscardedIn.Load() > 0
}

// tellDiscarded counts and publishes the connection's discarded bytes. It warns only of bytes from
// the client: they may mean that linger is too short. Bytes to a client that has left are normal.
func (w *Waiter) tellDiscarded() {
	count := func(direction string, n int64) {
		if n == 0 {
			return
		}
		w.lock.record.Discarded.WithLabelValues(direction).Add(float64(n))
		e := w.event(status.EventDiscarded, direction)
		e.Bytes = n
		w.lock.Publish(e)
	}
	count(record.FromClient, w.conn.Traffic.DiscardedIn.Load())
	count(record.ToClient, w.conn.Traffic.DiscardedOut.Load())
	if n := w.conn.Traffic.DiscardedIn.Load(); n > 0 && w.lock.discards.Allow() {
		w.log(zapcore.WarnLevel, "bytes of the client were thrown away: it sent them when its slot had been handed on; if the service needs them, raise linger",
			zap.Int64("bytes", n),
			zap.Duration("linger", w.conn.Linger))
	}
}

func (l *Lock) tellDiscards(dropped int) {
	l.Logger().Warn("bytes of more clients were thrown away in the last minute; if the service needs them, raise linger",
		zap.String("lock", l.Name()), zap.Int("connections", dropped))
}

// logEnd writes the connection's line into the log.
func (w *Waiter) logEnd(access *zap.Logger) {
	slot, worker := w.slot()
	var connecting time.Duration
	if h := w.holder.Load(); h != nil {
		connecting = h.connectTime()
	}
	access.Info("connection ended",
		zap.String("lock", w.lock.Name()),
		zap.String("client", w.conn.Address),
		zap.Uint64("connection", w.queued.ID),
		zap.String("outcome", w.trip.outcome),
		zap.Int("position", w.trip.position),
		zap.Duration("waited", w.trip.waited),
		zap.Duration("hooks", w.trip.hooked),
		zap.Duration("connect", connecting),
		zap.Duration("held", w.trip.held),
		zap.Int64("bytes_in", w.conn.Traffic.In.Load()),
		zap.Int64("bytes_out", w.conn.Traffic.Out.Load()),
		zap.Int64("bytes_discarded", w.conn.Traffic.DiscardedIn.Load()+w.conn.Traffic.DiscardedOut.Load()),
		zap.Int("slot", slot),
		zap.String("worker", worker))
}

// refusalsLogged is how many connections without a slot are logged per second. Their number has no
// bound.
const refusalsLogged = 50

func (l *Lock) tellRefusals(dropped int) {
	access := l.current.Load().access
	if access == nil {
		return
	}
	access.Info("connections ended without a slot, and without a line of their own: there were too many",
		zap.String("lock", l.Name()), zap.Int("connections", dropped))
}
