package tcplock

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func (c *conn) log(level zapcore.Level, msg string) {
	c.lock.logger().Log(level, msg,
		zap.String("lock", c.lock.name()),
		zap.String("client", c.client),
		zap.Int("slot", c.slot),
		zap.Uint64("connection", c.id))
}

// tellEnd says how the connection has ended, when nothing is left of it: Handle is done
// and its slot is given back. Until then bytes may still be thrown away.
func (c *conn) tellEnd() {
	if c.outcome == "" {
		return // it did not even join
	}
	c.tellDiscarded()
	if !c.quiet {
		c.logEnd()
	}
}

// The directions of bytes.
const (
	fromClient = "in"
	toClient   = "out"
)

// tellDiscarded counts what was thrown away of the connection. That the end of an answer
// does not reach a client that has gone is as it must be; that a client speaks to a service
// that does not hear it any more may be a mistake in the settings.
func (c *conn) tellDiscarded() {
	count := func(direction string, n int64) {
		if n == 0 {
			return
		}
		c.lock.record.discarded.WithLabelValues(direction).Add(float64(n))
		e := c.event(eventDiscarded, direction)
		e.Bytes = n
		c.lock.happened(e)
	}
	count(fromClient, c.discardedIn.Load())
	count(toClient, c.discardedOut.Load())
	if n := c.discardedIn.Load(); n > 0 && c.lock.discards.allow() {
		c.lock.logger().Warn("bytes of the client were thrown away: it sent them when its slot had been handed on; if the service needs them, raise linger",
			zap.String("lock", c.lock.name()),
			zap.String("client", c.client),
			zap.Int("slot", c.slot),
			zap.Uint64("connection", c.id),
			zap.Int64("bytes", n),
			zap.Duration("linger", c.linger))
	}
}

func (l *lock) tellDiscards(dropped int) {
	l.logger().Warn("bytes of more clients were thrown away in the last minute; if the service needs them, raise linger",
		zap.String("lock", l.name()), zap.Int("connections", dropped))
}

// logEnd writes the connection's line into the log.
func (c *conn) logEnd() {
	logger := c.lock.inForce.Load().access
	if !logger.Core().Enabled(zapcore.InfoLevel) {
		return
	}
	logger.Info("connection ended",
		zap.String("lock", c.lock.name()),
		zap.String("client", c.client),
		zap.Uint64("connection", c.id),
		zap.String("outcome", c.outcome),
		zap.Int("position", c.position),
		zap.Duration("waited", c.waited),
		zap.Duration("hooks", c.hooked),
		zap.Duration("held", c.held),
		zap.Int64("bytes_in", c.in.Load()),
		zap.Int64("bytes_out", c.out.Load()),
		zap.Int64("bytes_discarded", c.discardedIn.Load()+c.discardedOut.Load()),
		zap.Int("slot", c.slot),
		zap.String("worker", c.workerAddress()))
}

// refusalsLogged is how many of those who never held a slot are logged a second: there may
// be any number of them.
const refusalsLogged = 50

func (l *lock) tellRefusals(dropped int) {
	l.inForce.Load().access.Info("connections ended without a slot, and without a line of their own: there were too many",
		zap.String("lock", l.name()), zap.Int("connections", dropped))
}
