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

// logEnd writes the connection's line into the log: when its slot has been given back and
// the next handler has returned, or when it has been turned away.
func (c *conn) logEnd(outcome string) {
	logger := c.lock.inForce.Load().access
	if !logger.Core().Enabled(zapcore.InfoLevel) {
		return
	}
	logger.Info("connection ended",
		zap.String("lock", c.lock.name()),
		zap.String("client", c.client),
		zap.Uint64("connection", c.id),
		zap.String("outcome", outcome),
		zap.Int("position", c.position),
		zap.Duration("waited", c.waited),
		zap.Duration("hooks", c.hooked),
		zap.Duration("held", c.held),
		zap.Int64("bytes_in", c.in.Load()),
		zap.Int64("bytes_out", c.out.Load()),
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
