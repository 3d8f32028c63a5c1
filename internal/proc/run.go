// Package proc runs commands in process groups of their own. It kills a command together with all
// that the command has started, and makes sure that the processes of services end even if Caddy
// dies.
package proc

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
)

// How long Run waits for a command that should have ended.
const (
	OutputDelay = time.Second     // for the end of the output, after the command has ended
	KillDelay   = 5 * time.Second // for the end of a command that was killed
)

// Detach starts cmd in a session of its own and returns. It logs the end of cmd at level debug. It
// returns an error if cmd cannot start.
func Detach(cmd *exec.Cmd, logger *zap.Logger, fields ...zap.Field) error {
	newSession(cmd)
	release := fds.Process.Take(fds.PerWait)
	if err := cmd.Start(); err != nil {
		release()
		return err
	}
	go func() {
		defer release()
		err := cmd.Wait()
		logger.Debug("detached command ended", append(fields, zap.Error(err))...)
	}()
	return nil
}

// Run runs cmd to its end in a process group of its own, and logs how it ended, with fields. When
// timeout is over or ctx is done, Run kills the group. If cmd fails, Run kills what it has left
// behind, and the error ends with the first line that cmd printed.
func Run(ctx context.Context, cmd *exec.Cmd, timeout time.Duration, logger *zap.Logger, fields ...zap.Field) error {
	began, out := time.Now(), new(Output)
	p, err := Start(cmd, nil, out.read)
	if err != nil {
		return err
	}
	err = await(ctx, timeout, p.exited, func() error { return p.signal(p.group.kill) })
	if clock.IsOver(p.exited) && (err == nil || p.err == nil) { // it may have succeeded before it could be killed
		err = p.err
	}
	took := time.Since(began)
	if !clock.Wait(p.read, OutputDelay) {
		logger.Warn("command left a process behind that holds its output open; this output is thrown away from now on; use detach, or redirect it", fields...)
	}
	report(logger, fields, err, took, out)
	return out.Explain(err)
}

// report logs how the command has ended, with its output. It does so for each try of a hook, because
// the error of the hook is that of the last try only, with one line of the output.
func report(logger *zap.Logger, fields []zap.Field, err error, took time.Duration, out *Output) {
	kept, end, dropped := out.Result()
	level := zapcore.InfoLevel
	fields = append(fields,
		zap.Duration("duration", took),
		zap.Int("exit_code", ExitCode(err)),
		zap.String("output", kept))
	if dropped > 0 {
		fields = append(fields, zap.Int64("output_dropped", dropped), zap.String("output_end", end))
	}
	if err != nil {
		level = zapcore.WarnLevel
		fields = append(fields, zap.Error(err))
	}
	logger.Log(level, "command ended", fields...)
}

// await waits for the end of a command, and kills it when timeout is over or ctx is done. After
// that it waits for KillDelay only. Caddy may not be allowed to kill a command that has changed its
// user, such as sudo, and a command that hangs in the kernel does not die.
func await(ctx context.Context, timeout time.Duration, ended <-chan struct{}, kill func() error) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var why error
	select {
	case <-ended:
		return nil
	case <-timer.C:
		why = fmt.Errorf("not done after its timeout of %s", timeout)
	case <-ctx.Done():
		why = fmt.Errorf("stopped: %w", context.Cause(ctx))
	}
	if err := kill(); !clock.Wait(ended, KillDelay) {
		return fmt.Errorf("%w, still running %s after it was to be killed (%v)", why, KillDelay, err)
	}
	return fmt.Errorf("%w, killed", why)
}

// ExitCode returns the exit status in the error of a command: 0 for nil, and -1 if a signal ended
// the command or if it has no status.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return -1
}
