package service

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os/exec"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/dial"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/proc"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/vars"
)

// Process is a running process, as its supervisor uses it.
type Process interface {
	PID() int
	Exited() <-chan struct{}     // closed when it has ended for any reason, and the rest of its group has been killed
	Cause() error                // how it ended: nil is status 0; only after Exited
	Ready(context.Context) error // waits until it is ready, at most for ready_timeout; if it ends first, that is an error
	Memory() (uint64, error)     // resident bytes of it and all its descendants
	Terminate()                  // asks it to end
	Kill()                       // kills it
	Release()                    // after Exited: waits for a limited time until nothing of it is left
}

// Starter starts a process.
type Starter func(s *Service, id ID, logger func() *zap.Logger) (Process, error)

const (
	lineKept    = 4 << 10 // bytes of a line that are logged
	linesLogged = 100     // a second
)

// osProcess is a process of the operating system.
type osProcess struct {
	*proc.Process
	service *Service
	id      ID
	logger  func() *zap.Logger
}

// startProcess is the Starter of real processes.
func startProcess(s *Service, id ID, logger func() *zap.Logger) (Process, error) {
	if err := s.checkVacant(id); err != nil {
		return nil, err
	}
	cmd, err := s.prepare(id, s.Command, s.Args)
	if err != nil {
		return nil, err
	}
	named := func() *zap.Logger { return logger().With(zap.String("lock", id.Lock), zap.Int("slot", id.Slot)) }
	p, err := proc.Start(cmd, named, func(output io.ReadCloser) {
		copyLines(output, func() *zap.Logger { return named().With(zap.Int("pid", cmd.Process.Pid)) })
	})
	if err != nil {
		return nil, err
	}
	return &osProcess{p, s, id, named}, nil
}

// prepare returns a command with the directory and the environment of the service.
func (s *Service) prepare(id ID, command string, args []string) (*exec.Cmd, error) {
	return proc.Spec{Command: command, Args: args, Dir: s.Dir, Env: s.Env}.Prepare(id.values())
}

// When a process is ready: nothing answered at its address before the start, then a service
// answers there or the ready command succeeds, and the process is still alive a moment later.

const (
	vacatedIn = time.Second           // how long the last children of the process before may still answer
	livesOn   = 50 * time.Millisecond // how long a process must live after the probe that succeeded
	forksFor  = time.Second           // how long a process that has gone to the background may take to answer
)

// address returns the address at which a process answers when it is ready, or "" if that is not
// known.
func (s *Service) address(id ID) (string, error) {
	if s.Ready == "" {
		return id.Worker, nil
	}
	address, err := vars.Replacer(id.values()).ReplaceOrErr(s.Ready, false, true)
	if err == nil {
		_, _, err = dial.Address(address)
	}
	if err != nil {
		return "", fmt.Errorf("ready: %w", err)
	}
	return address, nil
}

// checkVacant returns an error if something answers at the process's address before the start. A
// probe could not tell it from the process, and clients would be sent there.
func (s *Service) checkVacant(id ID) error {
	address, err := s.address(id)
	if err != nil || address == "" {
		return err
	}
	network, host, err := dial.Address(address)
	if err != nil {
		return err
	}
	for end := time.Now().Add(vacatedIn); dial.Probe(context.Background(), network, host, dial.ListenFor) == nil; time.Sleep(dial.MinPause) {
		if time.Now().After(end) {
			return fmt.Errorf("something else listens on %s, expected nothing there before the start: it may be another program, or a former process of this service that has gone to the background", address)
		}
	}
	return nil
}

func (p *osProcess) Ready(ctx context.Context) error {
	alive, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.Exited():
			cancel()
		case <-alive.Done():
		}
	}()
	met, err := p.awaitReady(alive)
	if err == nil {
		clock.Wait(p.Exited(), livesOn)
	}
	if clock.IsOver(p.Exited()) {
		return p.endedEarly(ctx, met)
	}
	return err
}

// awaitReady waits until a probe or the ready command succeeds. It reports whether it was a probe.
func (p *osProcess) awaitReady(ctx context.Context) (met bool, err error) {
	timeout := cmp.Or(time.Duration(p.service.ReadyTimeout), defaultReadyTimeout)
	if p.service.ReadyCommand != nil {
		return false, p.readyByCommand(ctx, timeout)
	}
	address, err := p.service.address(p.id)
	if err != nil {
		return false, err
	}
	return dial.Await(ctx, address, dial.Open, timeout)
}

// endedEarly explains why a process may have ended before it was ready or right after.
func (p *osProcess) endedEarly(ctx context.Context, met bool) error {
	if address, err := p.service.address(p.id); err == nil && address != "" && p.Cause() == nil {
		if _, err := dial.Await(ctx, address, dial.Open, forksFor); err == nil {
			return fmt.Errorf("it has ended with status 0, but %s answers: the service seems to have gone to the background, out of reach; start it with its option to stay in the foreground (often --foreground, --no-daemon or -D)", address)
		}
	}
	if met {
		return fmt.Errorf("it has ended right after the probe of its address: %s; a server that ends after one connection needs ready exec instead of a probe", ending(p))
	}
	return fmt.Errorf("it has ended before it was ready: %s", ending(p))
}

func (p *osProcess) readyByCommand(ctx context.Context, timeout time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// Log the first failure and the success, with the output, but not each try.
	once := zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, timeout+proc.KillDelay, 1, 0)
	})
	command, args := p.service.ReadyCommand[0], p.service.ReadyCommand[1:]
	logger := p.logger().WithOptions(once)
	err := clock.Retry(bounded, dial.MinPause, time.Second, func() error {
		cmd, err := p.service.prepare(p.id, command, args)
		if err != nil {
			return err
		}
		return proc.Run(bounded, cmd, timeout, logger, zap.String("moment", "ready"), zap.String("command", command))
	})
	if err != nil {
		return fmt.Errorf("ready exec %s: not ready after %s: %w", command, timeout, err)
	}
	return nil
}

// copyLines logs r line by line until its end. It reads on in any case: a log must not stop a
// process.
func copyLines(r io.Reader, logger func() *zap.Logger) {
	limit := clock.Limit{Most: linesLogged, Tell: func(dropped int) {
		logger().Warn("output lines dropped, there were too many", zap.Int("lines", dropped), zap.Int("logged_a_second", linesLogged))
	}}
	defer limit.Flush()
	for lines := bufio.NewReaderSize(r, lineKept); ; {
		words, more, err := lines.ReadLine()
		if err != nil {
			return
		}
		line, cut := string(words), 0
		for more && err == nil {
			words, more, err = lines.ReadLine()
			cut += len(words)
		}
		if !limit.Allow() {
			continue
		}
		fields := []zap.Field{zap.String("line", text.Tame(line))}
		if cut > 0 {
			fields = append(fields, zap.Int("bytes_cut", cut))
		}
		logger().Info("output", fields...)
	}
}
