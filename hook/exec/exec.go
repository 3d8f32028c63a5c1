// Package exec is a hook step that runs a command.
package exec

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/proc"
)

func init() { caddy.RegisterModule(new(Step)) }

// Step runs a command. It fails unless the command ends with status 0. There is no shell: each
// argument reaches the command unchanged, as one argument.
//
// The command gets Caddy's environment without NOTIFY_SOCKET, WATCHDOG_* and LISTEN_*, which
// systemd sets for Caddy alone. TCPLOCK_MOMENT, TCPLOCK_NAME, TCPLOCK_SLOT, TCPLOCK_WORKER,
// TCPLOCK_WORKER_HOST, TCPLOCK_WORKER_PORT, TCPLOCK_CONNECTION, TCPLOCK_CLIENT, TCPLOCK_WAITED and
// TCPLOCK_REASON are added, then env. Its input is empty. The first 8 KiB of its output go to the
// log, and the end of a longer output as well. The rest is read and counted. If the command fails,
// the error of the step ends with the first line that the command printed, cut at 200 bytes.
//
// The command runs in a process group of its own. When it fails or is killed, everything that it
// has started in that group is killed too (on Windows only when it is killed). What it leaves
// behind when it succeeds goes on.
type Step struct {
	// The command: a path, or a name that is looked up in Caddy's PATH. A relative path starts
	// from dir. No placeholders. Required.
	Command string `json:"command"`

	// Its arguments. They take Caddy's global placeholders and {l4.tcplock.*}, and no others:
	// nothing that a client sends can get here. Write a literal brace as \{. Default: none.
	Args []string `json:"args,omitempty"`

	// How long it may run. After that it is killed, and the step has failed. Default and zero: 1m.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// The directory in which it runs. No placeholders. Default: Caddy's own.
	Dir string `json:"dir,omitempty"`

	// More environment variables. They win over those above. Their values take the same
	// placeholders as args. Default: none.
	Env map[string]string `json:"env,omitempty"`

	// Do not wait for the command: the step is done when the command has started. The command gets
	// a session of its own, is never killed, and its output is thrown away. Not with timeout.
	// Default: false.
	Detach bool `json:"detach,omitempty"`

	logger *zap.Logger
}

const defaultExecTimeout = time.Minute

// CaddyModule returns the Caddy module information.
func (*Step) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.tcplock.hooks.exec", New: func() caddy.Module { return new(Step) }}
}

// Provision checks the step. A missing command is not an error yet: it may come later, with a
// mount or an installation.
func (s *Step) Provision(ctx caddy.Context) error {
	return s.provision(ctx.Logger())
}

func (s *Step) provision(logger *zap.Logger) error {
	s.logger = logger
	if err := s.check(); err != nil {
		return err
	}
	file := s.Command
	if filepath.Base(file) != file && !filepath.IsAbs(file) {
		// Absolute, because Join removes ./ and the rest would be looked up in PATH.
		file, _ = filepath.Abs(filepath.Join(s.Dir, file))
	}
	if _, err := exec.LookPath(file); err != nil {
		s.logger.Warn("command not found now, the step fails unless it is there when it runs",
			zap.String("command", s.Command), zap.Error(err))
	}
	return nil
}

func (s *Step) check() error {
	if strings.Contains(s.Dir, "{") {
		return fmt.Errorf("dir: found %q, expected a path without placeholders", s.Dir)
	}
	if err := s.spec().Check(hook.Moment{}.Values()); err != nil {
		return err
	}
	if s.Detach && s.Timeout != 0 {
		return fmt.Errorf("timeout: found %s with detach, expected only one of them: a detached command is not waited for", time.Duration(s.Timeout))
	}
	return hook.CheckTimeout(s.Timeout)
}

// Run implements Step.
func (s *Step) Run(ctx context.Context, m hook.Moment) error {
	if ctx.Err() != nil {
		return fmt.Errorf("exec %s: not started: %w", s.Command, context.Cause(ctx))
	}
	cmd, err := s.spec().Prepare(m.Values())
	// Not the arguments: they may hold secrets from the environment.
	fields := []zap.Field{zap.String("lock", m.Lock), zap.String("moment", m.On), zap.Int("slot", m.Slot), zap.String("command", s.Command)}
	if err == nil && s.Detach {
		err = proc.Detach(cmd, s.logger, fields...)
	} else if err == nil {
		err = proc.Run(ctx, cmd, cmp.Or(time.Duration(s.Timeout), defaultExecTimeout), s.logger, fields...)
	}
	if err != nil {
		return fmt.Errorf("exec %s: %w", s.Command, err)
	}
	return nil
}

func (s *Step) spec() proc.Spec {
	return proc.Spec{Command: s.Command, Args: s.Args, Dir: s.Dir, Env: s.Env}
}

// WriteDefaults implements hook.DefaultWriter.
func (s *Step) WriteDefaults() {
	if !s.Detach {
		s.Timeout = cmp.Or(s.Timeout, caddy.Duration(defaultExecTimeout))
	}
}

// UnmarshalCaddyfile reads
//
//	exec <command> [<args...>] {
//	    timeout <duration>
//	    dir     <path>
//	    env     <name> <value>    # repeatable
//	    detach
//	}
func (s *Step) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Err("exec: found 0 arguments, expected a command and its arguments")
	}
	s.Command, s.Args = args[0], args[1:]
	return opts.Table{
		"timeout": opts.One(&s.Timeout, opts.Duration),
		"dir":     opts.One(&s.Dir, opts.Text),
		"env":     opts.Map(&s.Env),
		"detach":  opts.Flag(&s.Detach),
	}.Parse(d, s.check, nil)
}

var _ hook.DefaultWriter = (*Step)(nil) // nothing else would notice if it were none
