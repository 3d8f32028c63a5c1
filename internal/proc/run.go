// Package proc runs commands in process groups of their own: it starts them, ends them with all that
// they have started, and ends them when Caddy itself has died.
package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
)

const (
	OutputDelay = time.Second     // how long the output may stay open after the end of a command
	KillDelay   = 5 * time.Second // how long a killed command may take to end
)

// Detach starts cmd in a session of its own and returns. Its end goes to the debug log.
func Detach(cmd *exec.Cmd, logger *zap.Logger, fields ...zap.Field) error {
	newSession(cmd)
	giveBack := fds.Process.Take(fds.PerWait)
	if err := cmd.Start(); err != nil {
		giveBack()
		return err
	}
	go func() {
		defer giveBack()
		err := cmd.Wait()
		logger.Debug("detached command ended", append(fields, zap.Error(err))...)
	}()
	return nil
}

// Run runs cmd to its end in a process group of its own, for timeout at most, and logs how it
// ended, with fields. If it fails, the error ends with the first line that it printed.
//
// The pipe for the output is ours, not that of os/exec, for two reasons. os/exec would wait for the
// end of the output before the rest of a failed command's group can be killed. And it would close the
// pipe under a daemon that has inherited it, which would die when it prints again.
func Run(ctx context.Context, cmd *exec.Cmd, timeout time.Duration, logger *zap.Logger, fields ...zap.Field) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = w, w
	newGroup(cmd)
	start := time.Now()
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return err
	}
	out := collect(r)
	ended, kill := watchEnd(cmd)
	err = await(ctx, timeout, ended, kill)
	took := time.Since(start)
	if !out.wait(OutputDelay) {
		logger.Warn("command left a process behind that holds its output, which is thrown away from now on; use detach, or redirect it", fields...)
	}
	report(logger, fields, err, took, out)
	return out.Explain(err)
}

// watchEnd waits for the end of a command, and kills what one that fails has left behind. kill
// kills it with all in its group; it does nothing once the command has ended, whose pid may
// soon be another's.
func watchEnd(cmd *exec.Cmd) (ended <-chan error, kill func() error) {
	pid, end := cmd.Process.Pid, make(chan error, 1)
	var mu sync.Mutex
	over := false
	giveBack := fds.Process.Take(fds.PerWait)
	go func() {
		defer giveBack()
		end <- WaitThen(cmd, func(failed bool) {
			mu.Lock()
			defer mu.Unlock()
			over = true
			if failed {
				killLeftOver(pid)
			}
		})
	}()
	return end, func() error {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return nil
		}
		return killGroup(pid)
	}
}

// report logs how the command has ended, with its output. A hook that tries again reports each try:
// its own error has the last one only, with one line of the output.
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

// await waits for the command's end, and kills it at timeout or when ctx is done. Even
// then it is not waited for without a bound: a command that has changed its user, such
// as sudo, may not be Caddy's to kill, and one that hangs in the kernel does not die.
func await(ctx context.Context, timeout time.Duration, ended <-chan error, kill func() error) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var why error
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		why = fmt.Errorf("not done after its timeout of %s", timeout)
	case <-ctx.Done():
		why = fmt.Errorf("stopped: %w", context.Cause(ctx))
	}
	err := kill()
	timer.Reset(KillDelay)
	select {
	case end := <-ended:
		if end == nil { // it was done before it could be killed
			return nil
		}
		return fmt.Errorf("%w, killed", why)
	case <-timer.C:
		return fmt.Errorf("%w, still running %s after it was to be killed (%v)", why, KillDelay, err)
	}
}

// ExitCode is -1 for a command that was killed.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return -1
}
