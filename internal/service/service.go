// Package service runs the process behind a slot: it starts the process, knows when it is ready, restarts
// it between two clients of the slot, and ends it.
package service

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/dial"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/proc"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/vars"
)

// Service is the process behind each slot of a lock. The lock starts, restarts and stops it. There
// is no shell: each argument reaches the command unchanged, as one argument. The process gets no
// client before it is ready, and a restart happens between two clients of its slot.
//
// Args, env, dir, ready and ready_command take Caddy's global placeholders and
// {l4.tcplock.name|slot|worker|worker_host|worker_port}, and no others: nothing that a client
// sends can get there. Write a literal brace as \{. The values are read at each start.
//
// The process gets Caddy's environment without NOTIFY_SOCKET, WATCHDOG_* and LISTEN_*, which
// systemd sets for Caddy alone. TCPLOCK_NAME, TCPLOCK_SLOT, TCPLOCK_WORKER, TCPLOCK_WORKER_HOST
// and TCPLOCK_WORKER_PORT are added, then env. Its input is empty. Its output goes to the log line
// by line: a line is cut at 4 KiB, and at most 100 lines a second are logged. The others are
// counted.
//
// It runs in a process group of its own. The group ends as a whole. It also ends when Caddy ends,
// and (not on Windows) when Caddy is killed.
type Service struct {
	// The command: a path, or a name that is looked up in Caddy's PATH. A relative path starts
	// from dir. No placeholders. Required.
	Command string `json:"command"`

	// Its arguments. Default: none.
	Args []string `json:"args,omitempty"`

	// The directory in which it runs. The directory must exist. Default: Caddy's own.
	Dir string `json:"dir,omitempty"`

	// More environment variables. They win over those above. Default: none.
	Env map[string]string `json:"env,omitempty"`

	// When to start it: "eager" starts it when the config is loaded, "lazy" when the first
	// connection comes, which waits for it. If a lazy process ends by itself with status 0 and has
	// not failed, it is started again only for the next connection. Default: "eager".
	Start string `json:"start,omitempty"`

	// The process is ready when a service answers at this address (host:port or unix//path). The
	// probe is the one of the wait step. Not with ready_command. Default: the slot's worker.
	// Required without workers.
	Ready string `json:"ready,omitempty"`

	// The process is ready when this command, with its arguments, ends with status 0. The command
	// is repeated until then, in the directory and the environment of the process. No placeholders
	// in the command itself. Not with ready. Default: none, see ready.
	ReadyCommand []string `json:"ready_command,omitempty"`

	// How long the process may take to become ready. After that the start has failed: the process
	// is ended, and started again after a pause that doubles from 1s to 1m. Default and zero: 1m.
	ReadyTimeout caddy.Duration `json:"ready_timeout,omitempty"`

	// Restart it after this number of connections that reached it. Default and zero: never.
	RestartEvery int `json:"restart_every,omitempty"`

	// Restart it when it has been ready for this time. Default and zero: never.
	RestartInterval caddy.Duration `json:"restart_interval,omitempty"`

	// Restart it when it and its descendants use more resident memory than this: a number of
	// bytes, or a string such as "1GiB" or "800MB". On Linux, memory that processes share counts
	// once. Checked every 5s. Default and zero: no limit.
	MaxMemory Size `json:"max_memory,omitempty"`

	// Stop it when its slot has had no connection for this time. The next connection starts it, as
	// with lazy. Default and zero: never.
	StopIdle caddy.Duration `json:"stop_idle,omitempty"`

	// How long it may take to end after it was asked to (SIGTERM to the whole group) before it is
	// killed. On Windows it is killed at once. Default and zero: 10s.
	StopTimeout caddy.Duration `json:"stop_timeout,omitempty"`
}

// The values of Service.Start.
const (
	StartEager = "eager"
	StartLazy  = "lazy"
)

const (
	defaultReadyTimeout = time.Minute
	defaultStopTimeout  = 10 * time.Second
)

// Size is a number of bytes: in JSON a number, or a string such as "1GiB" or "800MB".
type Size uint64

// UnmarshalJSON implements json.Unmarshaler.
func (s *Size) UnmarshalJSON(b []byte) (err error) {
	var word string
	if json.Unmarshal(b, &word) != nil {
		word = string(b)
	}
	if *s, err = size(word); err != nil {
		return fmt.Errorf("size: %w", err)
	}
	return nil
}

func size(s string) (Size, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil {
		return 0, fmt.Errorf("found %q, expected a number of bytes, or a size such as 1GiB or 800MB", s)
	}
	return Size(n), nil
}

// Check returns an error for a value that is out of range. The Caddyfile reader calls it after
// each option, so that the error carries the option's file and line.
func (s *Service) Check() error {
	values := ID{}.values()
	spec := proc.Spec{Command: s.Command, Args: s.Args, Dir: s.Dir, Env: s.Env}
	if err := cmp.Or(
		spec.Check(values),
		vars.CheckAll("ready", values, s.Ready),
		vars.CheckAll("ready_command", values, s.ReadyCommand...),
		s.checkReady(),
	); err != nil {
		return err
	}
	switch {
	case s.Start != "" && s.Start != StartEager && s.Start != StartLazy:
		return fmt.Errorf("start: found %q, expected %s or %s", s.Start, StartEager, StartLazy)
	case s.RestartEvery < 0:
		return fmt.Errorf("restart_every: found %d, expected 0 (never) or more", s.RestartEvery)
	}
	for _, d := range []struct {
		name  string
		value caddy.Duration
	}{
		{"ready_timeout", s.ReadyTimeout},
		{"restart_interval", s.RestartInterval},
		{"stop_idle", s.StopIdle},
		{"stop_timeout", s.StopTimeout},
	} {
		if d.value < 0 {
			return fmt.Errorf("%s: found %s, expected a duration of 0 or more", d.name, time.Duration(d.value))
		}
	}
	return nil
}

func (s *Service) checkReady() error {
	if s.Ready != "" && s.ReadyCommand != nil {
		return errors.New("ready: found an address and a command, expected only one of them")
	}
	if s.ReadyCommand != nil {
		first := slices.Concat(s.ReadyCommand, []string{""})[0]
		if err := (proc.Spec{Command: first}).Check(nil); err != nil {
			return fmt.Errorf("ready_command: %w", err)
		}
	}
	if s.Ready != "" && !strings.Contains(s.Ready, "{") {
		if _, _, err := dial.Address(s.Ready); err != nil {
			return fmt.Errorf("ready: %w", err)
		}
	}
	return nil
}

// CheckSlots returns an error if nothing says when the process of a slot is ready. It is not part
// of Check, because the options of a block come in any order. The address of a slot without a
// worker is empty.
func (s *Service) CheckSlots(addresses []string) error {
	if s.ReadyCommand != nil {
		return nil
	}
	seen := make(map[string]int)
	for i, worker := range addresses {
		if worker == "" && s.Ready == "" {
			return errors.New("service: found neither ready nor workers, expected one of them: an address that can be connected to when the service is ready")
		}
		address, err := s.address(ID{"", i + 1, worker})
		if err != nil {
			continue // the start reports it, and a global placeholder may have a value by then
		}
		if other := seen[address]; other != 0 {
			return fmt.Errorf("service: ready: found %s for slots %d and %d, expected an address of its own for each slot, with {l4.tcplock.slot} for instance, or ready exec: the process of another slot would answer", address, other, i+1)
		}
		seen[address] = i + 1
	}
	return nil
}

// sameProcess reports whether s and other start the same process. The settings that it does not
// compare can change while the process runs.
func (s *Service) sameProcess(other *Service) bool {
	return s.Command == other.Command && slices.Equal(s.Args, other.Args) &&
		s.Dir == other.Dir && maps.Equal(s.Env, other.Env)
}

// sameReady reports whether s and other mean the same by ready.
func (s *Service) sameReady(other *Service) bool {
	return s.Ready == other.Ready && slices.Equal(s.ReadyCommand, other.ReadyCommand) &&
		s.ReadyTimeout == other.ReadyTimeout
}

// Written returns the service with all defaults written out, so that two services that mean the
// same are equal.
func (s Service) Written() Service {
	s.Start = cmp.Or(s.Start, StartEager)
	s.ReadyTimeout = cmp.Or(s.ReadyTimeout, caddy.Duration(defaultReadyTimeout))
	s.StopTimeout = cmp.Or(s.StopTimeout, caddy.Duration(defaultStopTimeout))
	return s
}

// ID says which slot a process stands behind.
type ID struct {
	Lock   string
	Slot   int
	Worker string // empty if the slot has no worker
}

func (id ID) values() map[string]string {
	values := map[string]string{"name": id.Lock, "slot": strconv.Itoa(id.Slot)}
	vars.AddWorker(values, id.Worker)
	return values
}

// UnmarshalCaddyfile reads a service with its block; d is on the word "service".
//
//	service <command> [<args...>] {
//	    dir           <path>
//	    env           <name> <value>            # repeatable
//	    start         eager|lazy
//	    ready         <address>
//	    ready         exec <command> [<args...>]
//	    ready_timeout <duration>
//	    restart       every <n>|<duration>      # repeatable: one of each
//	    max_memory    <size>
//	    stop_idle     <duration>
//	    stop_timeout  <duration>
//	}
func (s *Service) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Err("service: found 0 arguments, expected a command and its arguments")
	}
	s.Command, s.Args = args[0], args[1:]
	check := func() error {
		if err := s.Check(); err != nil {
			return fmt.Errorf("service: %w", err)
		}
		return nil
	}
	return opts.Table{
		"dir":           opts.One(&s.Dir, opts.Text),
		"env":           opts.Map(&s.Env),
		"start":         opts.One(&s.Start, opts.Text),
		"ready":         {Max: math.MaxInt, Set: s.setReady},
		"ready_timeout": opts.One(&s.ReadyTimeout, opts.Duration),
		"restart":       {Min: 2, Max: 2, Repeat: true, Set: s.setRestart},
		"max_memory":    opts.One(&s.MaxMemory, size),
		"stop_idle":     opts.One(&s.StopIdle, opts.Duration),
		"stop_timeout":  opts.One(&s.StopTimeout, opts.Duration),
	}.Parse(d, check, nil)
}

func (s *Service) setReady(_ *caddyfile.Dispenser, args []string) error {
	switch {
	case len(args) > 1 && args[0] == "exec":
		s.ReadyCommand = args[1:]
	case len(args) == 1 && args[0] != "exec" && args[0] != "":
		s.Ready = args[0]
	default:
		return fmt.Errorf("found %q, expected an address, or exec and a command", strings.Join(args, " "))
	}
	return nil
}

func (s *Service) setRestart(_ *caddyfile.Dispenser, args []string) error {
	if args[0] != "every" {
		return fmt.Errorf("found %q, expected every", args[0])
	}
	every, err := hook.ParseEvery(args[1])
	switch {
	case err != nil:
		return err
	case every.Count > 0 && s.RestartEvery > 0, every.Interval > 0 && s.RestartInterval > 0:
		return fmt.Errorf("found every %s, expected at most one number and one duration", args[1])
	case every.Count > 0:
		s.RestartEvery = every.Count
	default:
		s.RestartInterval = caddy.Duration(every.Interval)
	}
	return nil
}
