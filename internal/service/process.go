package service

import (
	"bufio"
	"context"
	"io"
	"os/exec"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/proc"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
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
