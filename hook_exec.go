package tcplock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
)

func init() {
	caddy.RegisterModule(new(ExecStep))
}

// ExecStep runs a command and fails unless it ends with status 0. There is no shell:
// each argument reaches the command as it stands, as one argument.
//
// The command's environment is Caddy's own but for NOTIFY_SOCKET, WATCHDOG_* and LISTEN_*,
// which systemd tells Caddy alone; then TCPLOCK_MOMENT, TCPLOCK_NAME, TCPLOCK_SLOT,
// TCPLOCK_WORKER, TCPLOCK_WORKER_HOST, TCPLOCK_WORKER_PORT, TCPLOCK_CONNECTION,
// TCPLOCK_CLIENT, TCPLOCK_WAITED and TCPLOCK_REASON, then env. Its input is empty. The first 8 KiB of its output go to the
// log, and so does the end of a longer one; the rest is read and counted. If the command fails, the error of the step ends
// with the first line that it printed, cut at 200 bytes.
//
// The command runs in a process group of its own. When it fails or is killed, whatever
// it has started in that group is killed with it (on Windows only when it is killed);
// what it leaves behind when it ends well goes on.
type ExecStep struct {
	// The command: a path, or a name to be looked up in Caddy's PATH. A relative path
	// starts from dir. No placeholders. Required.
	Command string `json:"command"`

	// Its arguments. They take Caddy's global placeholders and {l4.tcplock.*}, no
	// others: nothing a client sends can get here. A plain brace is written \{.
	Args []string `json:"args,omitempty"`

	// The longest time it may run; it is killed then, and the step has failed.
	// Default and zero: 1m.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// The directory it runs in. No placeholders. Default: Caddy's own.
	Dir string `json:"dir,omitempty"`

	// More environment variables, which win over those above. Their values take the
	// same placeholders as args.
	Env map[string]string `json:"env,omitempty"`

	// Do not wait for it: the step is done when the command has started. It gets a
	// session of its own, is never killed, and its output is thrown away. Not with
	// timeout. Default: false.
	Detach bool `json:"detach,omitempty"`

	logger *zap.Logger
}

const (
	defaultExecTimeout = time.Minute

	outputDelay = time.Second     // how long the output may stay open after the command's end
	killDelay   = 5 * time.Second // how long a killed command may take to end
)

// CaddyModule returns the Caddy module information.
func (*ExecStep) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.tcplock.hooks.exec",
		New: func() caddy.Module { return new(ExecStep) },
	}
}

// Provision checks the step. A command that is not there is no error yet: it may come
// later, with a mount or an installation.
func (s *ExecStep) Provision(ctx caddy.Context) error {
	return s.provision(ctx.Logger())
}

func (s *ExecStep) provision(logger *zap.Logger) error {
	s.logger = logger
	if err := s.check(); err != nil {
		return err
	}
	file := s.Command
	if filepath.Base(file) != file && !filepath.IsAbs(file) {
		// Absolute, since Join takes ./ away, and what is left would be looked up in PATH.
		file, _ = filepath.Abs(filepath.Join(s.Dir, file))
	}
	if _, err := exec.LookPath(file); err != nil {
		s.logger.Warn("command not found now, the step fails unless it is there when it runs",
			zap.String("command", s.Command), zap.Error(err))
	}
	return nil
}

func (s *ExecStep) check() error {
	if s.Command == "" {
		return errors.New("command: found none, expected a name or a path")
	}
	if strings.Contains(s.Command, "{") {
		return fmt.Errorf("command: found %q, expected a name or a path without placeholders", s.Command)
	}
	if strings.Contains(s.Dir, "{") {
		return fmt.Errorf("dir: found %q, expected a path without placeholders", s.Dir)
	}
	for _, arg := range s.Args {
		if err := checkPlaceholders(arg); err != nil {
			return fmt.Errorf("args: %w", err)
		}
	}
	for name, value := range s.Env {
		if name == "" || strings.ContainsAny(name, "={") {
			return fmt.Errorf("env: found name %q, expected one without = and placeholders", name)
		}
		if err := checkPlaceholders(value); err != nil {
			return fmt.Errorf("env: %s: %w", name, err)
		}
	}
	if s.Detach && s.Timeout != 0 {
		return fmt.Errorf("timeout: found %s with detach, expected only one of them: a detached command is not waited for", time.Duration(s.Timeout))
	}
	return checkTimeout(s.Timeout)
}

// checkPlaceholders refuses what the replacer of a moment does not know, above all
// everything that could carry what a client has sent.
func checkPlaceholders(s string) error { return checkText(s, Moment{}.values()) }

func checkTimeout(d caddy.Duration) error {
	if d < 0 {
		return fmt.Errorf("timeout: found %s, expected a duration of 0 (the default) or more", time.Duration(d))
	}
	return nil
}

// Run implements Step.
func (s *ExecStep) Run(ctx context.Context, m Moment) error {
	if ctx.Err() != nil {
		return fmt.Errorf("exec %s: not started: %w", s.Command, context.Cause(ctx))
	}
	cmd, err := s.prepare(m)
	if err == nil && s.Detach {
		err = s.detach(cmd, m)
	} else if err == nil {
		err = s.attach(ctx, cmd, m)
	}
	if err != nil {
		return fmt.Errorf("exec %s: %w", s.Command, err)
	}
	return nil
}

func (s *ExecStep) prepare(m Moment) (*exec.Cmd, error) {
	if s.Dir != "" {
		// Looked at here because the error of a start names the command only.
		if info, err := os.Stat(s.Dir); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("dir: found no directory %s", s.Dir)
		}
	}
	repl := m.Replacer()
	args := make([]string, len(s.Args))
	var err error
	for i, arg := range s.Args {
		if args[i], err = repl.ReplaceOrErr(arg, false, true); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(s.Command, args...)
	cmd.Dir = s.Dir
	cmd.Env = childEnvironment(cmd.Environ())
	for name, value := range m.values() {
		cmd.Env = append(cmd.Env, "TCPLOCK_"+strings.ToUpper(name)+"="+value)
	}
	for name, value := range s.Env {
		if value, err = repl.ReplaceOrErr(value, false, true); err != nil {
			return nil, err
		}
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd, nil
}

func (s *ExecStep) detach(cmd *exec.Cmd, m Moment) error {
	newSession(cmd)
	giveBack := fds.Process.Take(fds.PerWait)
	if err := cmd.Start(); err != nil {
		giveBack()
		return err
	}
	go func() {
		defer giveBack()
		err := cmd.Wait()
		s.logger.Debug("detached command ended", append(s.fields(m), zap.Error(err))...)
	}()
	return nil
}

// attach runs cmd to its end. The pipe is its own, not os/exec's: that one would be
// waited for before the rest of a failed command's group can be killed, and would be
// closed under a daemon that has inherited it, whose next word would then kill it.
func (s *ExecStep) attach(ctx context.Context, cmd *exec.Cmd, m Moment) error {
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
	err = await(ctx, cmp.Or(time.Duration(s.Timeout), defaultExecTimeout), ended, kill)
	took := time.Since(start)
	if !out.wait(outputDelay) {
		s.logger.Warn("command left a process behind that holds its output, which is thrown away from now on; use detach, or redirect it", s.fields(m)...)
	}
	s.report(m, err, took, out)
	return out.explain(err)
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
		end <- waitThen(cmd, func(failed bool) {
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

// report logs how the command has ended, with its output. Each try of a hook gets here, the
// hook's own error only tells of the last, with one line of its output.
func (s *ExecStep) report(m Moment, err error, took time.Duration, out *output) {
	kept, end, dropped := out.result()
	level := zapcore.InfoLevel
	fields := append(s.fields(m),
		zap.Duration("duration", took),
		zap.Int("exit_code", exitCode(err)),
		zap.String("output", kept))
	if dropped > 0 {
		fields = append(fields, zap.Int64("output_dropped", dropped), zap.String("output_end", end))
	}
	if err != nil {
		level = zapcore.WarnLevel
		fields = append(fields, zap.Error(err))
	}
	s.logger.Log(level, "command ended", fields...)
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
	timer.Reset(killDelay)
	select {
	case end := <-ended:
		if end == nil { // it was done before it could be killed
			return nil
		}
		return fmt.Errorf("%w, killed", why)
	case <-timer.C:
		return fmt.Errorf("%w, still running %s after it was to be killed (%v)", why, killDelay, err)
	}
}

// exitCode is -1 for a command that was killed.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return -1
}

// fields leaves the arguments out: they may hold secrets from the environment.
func (s *ExecStep) fields(m Moment) []zap.Field {
	return []zap.Field{zap.String("lock", m.Lock), zap.String("moment", m.On), zap.Int("slot", m.Slot), zap.String("command", s.Command)}
}

// UnmarshalCaddyfile reads
//
//	exec <command> [<args...>] {
//	    timeout <duration>
//	    dir     <path>
//	    env     <name> <value>    # repeatable
//	    detach
//	}
func (s *ExecStep) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Err("exec: found 0 arguments, expected a command and its arguments")
	}
	s.Command, s.Args = args[0], args[1:]
	if err := s.check(); err != nil {
		return d.WrapErr(err)
	}
	return opts.Table{
		"timeout": opts.One(&s.Timeout, opts.Duration),
		"dir":     opts.One(&s.Dir, opts.Text),
		"env":     {Min: 2, Max: 2, Repeat: true, Set: s.setEnv},
		"detach":  opts.Flag(&s.Detach),
	}.Parse(d, s.check, nil)
}

func (s *ExecStep) setEnv(_ *caddyfile.Dispenser, args []string) error {
	if _, ok := s.Env[args[0]]; ok {
		return fmt.Errorf("found %s a second time, expected once", args[0])
	}
	if s.Env == nil {
		s.Env = make(map[string]string)
	}
	s.Env[args[0]] = args[1]
	return nil
}

// Interface guards
var (
	_ Step                  = (*ExecStep)(nil)
	_ caddy.Provisioner     = (*ExecStep)(nil)
	_ caddyfile.Unmarshaler = (*ExecStep)(nil)
)
