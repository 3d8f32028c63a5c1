package lock

import (
	"fmt"
	"os"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// safeLog returns a logger of which no call panics. A connection ends in goroutines that belong to many, such as
// a timer's or that of the next holder. A log module that panics must not end the process there, or keep a slot.
func safeLog(logger *zap.Logger) *zap.Logger {
	return logger.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core { return safeCore{c} }))
}

// stderr gets what cannot be written, as with any logger of zap's.
var stderr = zapcore.Lock(os.Stderr)

type safeCore struct{ zapcore.Core }

func (s safeCore) With(fields []zapcore.Field) zapcore.Core { return safeCore{s.Core.With(fields)} }

func (s safeCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if inner := s.Core.Check(e, nil); inner != nil {
		return ce.AddCore(e, safeEntry{inner})
	}
	return ce
}

// safeEntry is the core of an entry that is to be written.
type safeEntry struct{ *zapcore.CheckedEntry }

// Write returns a panic as an error, which the logger writes to the standard error.
func (s safeEntry) Write(e zapcore.Entry, fields []zapcore.Field) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the log panicked: %v", r)
		}
	}()
	s.Entry, s.ErrorOutput = e, stderr
	s.CheckedEntry.Write(fields...)
	return nil
}

func (s safeEntry) Enabled(zapcore.Level) bool { return true }

func (s safeEntry) With([]zapcore.Field) zapcore.Core { return s }

func (s safeEntry) Check(_ zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry { return ce }

func (s safeEntry) Sync() error { return nil }
