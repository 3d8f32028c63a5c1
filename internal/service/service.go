// Package service runs the process behind a slot: it starts the process, knows when it is ready, restarts
// it between two clients of the slot, and ends it.
package service

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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

// Service is the process behind each slot of a lock: started, restarted and stopped by
// the lock itself. There is no shell: each argument reaches the command as it stands, as
// one argument. The process is given no client before it is ready, and a restart happens
// between two clients of its slot.
//
// Args, env, dir, ready and ready_command take Caddy's global placeholders and
// {l4.tcplock.name|slot|worker|worker_host|worker_port}, no others: nothing a client
// sends can get there. A plain brace is written \{. The values are read at each start.
//
// The process's environment is Caddy's own but for NOTIFY_SOCKET, WATCHDOG_* and LISTEN_*,
// which systemd tells Caddy alone; then TCPLOCK_NAME, TCPLOCK_SLOT, TCPLOCK_WORKER,
// TCPLOCK_WORKER_HOST and TCPLOCK_WORKER_PORT, then env. Its input is empty. Its output goes to the log by line:
// lines are cut at 4 KiB, at most 100 of them a second are logged, the others counted.
//
// It runs in a process group of its own, which ends as a whole, also with Caddy itself,
// and (not on Windows) if Caddy is killed.
type Service struct {
	// The command: a path, or a name to be looked up in Caddy's PATH. A relative path
	// starts from dir. No placeholders. Required.
	Command string `json:"command"`

	// Its arguments.
	Args []string `json:"args,omitempty"`

	// The directory it runs in, which must exist. Default: Caddy's own.
	Dir string `json:"dir,omitempty"`

	// More environment variables, which win over those above.
	Env map[string]string `json:"env,omitempty"`

	// When it is started: "eager", when the config is loaded, or "lazy", for the first
	// connection, which waits for it. A lazy process that ends by itself with status 0, and
	// has not failed, is started again for the next connection only. Default: "eager".
	Start string `json:"start,omitempty"`

	// The process is ready when a service is at this address (host:port or unix//path),
	// which is found out as by the step wait. Not with ready_command. Default: the
	// slot's worker; required without workers.
	Ready string `json:"ready,omitempty"`

	// The process is ready when this command and its arguments end with status 0; it is
	// tried again until then, in the process's own directory and environment. No
	// placeholders in the command itself. Not with ready. Default: none, see ready.
	ReadyCommand []string `json:"ready_command,omitempty"`

	// The longest time until it is ready; when it is over the start has failed, the
	// process is ended, and tried again after a pause that doubles from 1s to 1m.
	// Default and zero: 1m.
	ReadyTimeout caddy.Duration `json:"ready_timeout,omitempty"`

	// Restart it after so many connections that have reached it. Default and zero: never.
	RestartEvery int `json:"restart_every,omitempty"`

	// Restart it when it has been ready for so long. Default and zero: never.
	RestartInterval caddy.Duration `json:"restart_interval,omitempty"`

	// Restart it when it and its descendants have more than this in resident memory, in
	// bytes, or as a string such as "1GiB" or "800MB". On Linux, memory that processes
	// share counts once. Looked at every 5s. Default and zero: no limit.
	MaxMemory Size `json:"max_memory,omitempty"`

	// Stop it when its slot has had no connection for so long; the next one starts it, as
	// with lazy. Default and zero: never.
	StopIdle caddy.Duration `json:"stop_idle,omitempty"`

	// How long it may take to end when it is asked to (SIGTERM to the whole group), before
	// it is killed. On Windows it is killed at once. Default and zero: 10s.
	StopTimeout caddy.Duration `json:"stop_timeout,omitempty"`
}

// When a process is started, see Service.Start.
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

// Check refuses values that are out of range. The Caddyfile calls it after each option,
// so that its error carries the option's file and line.
func (s *Service) Check() error {
	if err := proc.CheckCommand(s.Command); err != nil {
		return err
	}
	for name := range s.Env {
		if err := proc.CheckVariable(name); err != nil {
			return err
		}
	}
	if err := s.checkTexts(); err != nil {
		return err
	}
	if s.Start != "" && s.Start != StartEager && s.Start != StartLazy {
		return fmt.Errorf("start: found %q, expected %s or %s", s.Start, StartEager, StartLazy)
	}
	if err := s.checkReady(); err != nil {
		return err
	}
	if s.RestartEvery < 0 {
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
		command := "" // which is refused
		if len(s.ReadyCommand) > 0 {
			command = s.ReadyCommand[0]
		}
		if err := proc.CheckCommand(command); err != nil {
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

// checkTexts refuses placeholders that are not those of a process.
func (s *Service) checkTexts() error {
	check := func(name string, texts ...string) error {
		for _, text := range texts {
			if err := vars.Check(text, ID{}.values()); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		if err := check("env: "+name, s.Env[name]); err != nil {
			return err
		}
	}
	return cmp.Or(
		check("args", s.Args...),
		check("dir", s.Dir),
		check("ready", s.Ready),
		check("ready_command", s.ReadyCommand...))
}

// CheckSlots refuses a service if it cannot be known when the process of a slot is ready. It
// is not part of Check, because the options of a block come in any order. A slot without
// a worker has an empty address.
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
			continue // a start would say the same, and a global placeholder may have a value by then
		}
		if other := seen[address]; other != 0 {
			return fmt.Errorf("service: ready: found %s for slots %d and %d, expected an address of its own for each slot, with {l4.tcplock.slot} for instance, or ready exec: the process of another slot would answer", address, other, i+1)
		}
		seen[address] = i + 1
	}
	return nil
}

// sameProcess reports whether a process started by s is as one started by other: the
// other settings hold for a running process as well.
func (s *Service) sameProcess(other *Service) bool {
	return s.Command == other.Command && slices.Equal(s.Args, other.Args) &&
		s.Dir == other.Dir && maps.Equal(s.Env, other.Env)
}

// sameReady reports whether a process is ready by s when it is by other.
func (s *Service) sameReady(other *Service) bool {
	return s.Ready == other.Ready && slices.Equal(s.ReadyCommand, other.ReadyCommand) &&
		s.ReadyTimeout == other.ReadyTimeout
}

// Written returns the service in one form of all those that mean the same: with the defaults written
// out.
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
	Worker string // empty if the slot has none
}

func (id ID) values() map[string]string {
	values := map[string]string{"name": id.Lock, "slot": strconv.Itoa(id.Slot)}
	vars.AddWorker(values, id.Worker)
	return values
}

// replacer knows Caddy's global placeholders and those of a process.
func (id ID) replacer() *caddy.Replacer { return vars.Replacer(id.values()) }

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
	if err := check(); err != nil {
		return d.WrapErr(err)
	}
	return opts.Table{
		"dir":           opts.One(&s.Dir, opts.Text),
		"env":           opts.Map(&s.Env),
		"start":         opts.One(&s.Start, opts.Text),
		"ready":         {Max: maxReadyArgs, Set: s.setReady},
		"ready_timeout": opts.One(&s.ReadyTimeout, opts.Duration),
		"restart":       {Min: 2, Max: 2, Repeat: true, Set: s.setRestart},
		"max_memory":    opts.One(&s.MaxMemory, size),
		"stop_idle":     opts.One(&s.StopIdle, opts.Duration),
		"stop_timeout":  opts.One(&s.StopTimeout, opts.Duration),
	}.Parse(d, check, nil)
}

const maxReadyArgs = 1000

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
