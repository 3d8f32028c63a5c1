package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/proc"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/vars"
)

// Process is a running process, as its supervisor sees it.
type Process interface {
	PID() int
	Exited() <-chan struct{}     // closed when it has ended by whatever cause, and the rest of its group has been killed
	Cause() error                // how it ended; nil is status 0; after Exited
	Ready(context.Context) error // waits until it is ready, at most ready_timeout; that it has ended is an error
	Memory() (uint64, error)     // resident bytes, with all descendants
	Terminate()                  // asks it to end
	Kill()                       // ends it
	Release()                    // after Exited: waits until nothing is left, for a bounded time
}

// Starter starts a process.
type Starter func(s *Service, id ID, logger func() *zap.Logger) (Process, error)

const (
	lineKept    = 4 << 10 // bytes of a line for the log
	linesLogged = 100     // a second
)

// osProcess is a process of the operating system.
type osProcess struct {
	service *Service
	id      ID
	logger  func() *zap.Logger
	cmd     *exec.Cmd
	out     *os.File      // the read end of its output
	over    chan struct{} // see Exited
	err     error
	drained chan struct{} // its output has been read to the end

	group *proc.Group
	mu    sync.Mutex
	swept bool // it has ended, and nothing may be sent to its group
}

// startProcess is the starter of real processes.
func startProcess(s *Service, id ID, logger func() *zap.Logger) (Process, error) {
	if err := s.checkVacant(id); err != nil {
		return nil, err
	}
	cmd, err := s.prepare(id, s.Command, s.Args)
	if err != nil {
		return nil, err
	}
	if cmd.Err != nil {
		return nil, cmd.Err // and no group is made for it
	}
	// The pipe is its own, not os/exec's, for the reasons given at proc.Run.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	p := &osProcess{service: s, id: id, logger: logger, cmd: cmd, out: r, over: make(chan struct{}), drained: make(chan struct{})}
	started := make(chan error)
	go p.live(started)
	err = <-started
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	go func() {
		defer close(p.drained)
		copyLines(r, func() *zap.Logger {
			return logger().With(zap.String("lock", id.Lock), zap.Int("slot", id.Slot), zap.Int("pid", p.PID()))
		})
	}()
	return p, nil
}

// prepare makes a command that runs where and as the service does.
func (s *Service) prepare(id ID, command string, args []string) (*exec.Cmd, error) {
	var errs []error
	repl := id.replacer()
	replace := func(s string) string {
		value, err := repl.ReplaceOrErr(s, false, true)
		errs = append(errs, err)
		return value
	}
	cmd := exec.Command(command)
	for _, arg := range args {
		cmd.Args = append(cmd.Args, replace(arg))
	}
	if cmd.Dir = replace(s.Dir); cmd.Dir != "" {
		// Looked at here because the error of a start names the command only.
		if info, err := os.Stat(cmd.Dir); err != nil || !info.IsDir() {
			errs = append(errs, fmt.Errorf("dir: found no directory %s", cmd.Dir))
		}
	}
	cmd.Env = append(proc.Environment(cmd.Environ()), vars.Environ(id.values())...)
	for name, value := range s.Env {
		cmd.Env = append(cmd.Env, name+"="+replace(value))
	}
	return cmd, errors.Join(errs...)
}

// live starts the process and waits for its end, on one thread: that a process gets a
// signal when its parent dies means, to Linux, the thread that has started it.
func (p *osProcess) live(started chan<- error) {
	defer fds.Process.Take(fds.PerProcess)()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.over)
	p.group = proc.OpenGroup(func() *zap.Logger {
		return p.logger().With(zap.String("lock", p.id.Lock), zap.Int("slot", p.id.Slot))
	})
	defer p.group.Close()
	p.group.Join(p.cmd)
	proc.DieWithParent(p.cmd)
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	p.group.Watch(p.PID())
	started <- nil
	p.err = proc.WaitThen(p.cmd, p.sweep)
}

// sweep kills what the process has left behind in its group. Nothing is sent there after it.
func (p *osProcess) sweep(bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swept = true
	p.group.Sweep()
}

func (p *osProcess) PID() int                { return p.cmd.Process.Pid }
func (p *osProcess) Exited() <-chan struct{} { return p.over }
func (p *osProcess) Cause() error            { return p.err }

func (p *osProcess) isOver() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

func (p *osProcess) Memory() (uint64, error) { return proc.Memory(p.PID()) }

// Terminate and kill do nothing once the number of the process or of its group may be another's.
func (p *osProcess) Terminate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.swept {
		p.group.Terminate()
	}
}

func (p *osProcess) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.swept {
		_ = p.group.Kill()
		_ = p.cmd.Process.Kill() // it may have moved to another group
	}
}

// Release waits for the end of the output: then those who were killed with the process
// have let go of their ports as well. One that has moved to a group of its own may
// hold the output still, and loses it.
func (p *osProcess) Release() {
	clock.Wait(p.drained, proc.OutputDelay)
	_ = p.out.Close()
	<-p.drained
}

// copyLines logs r by line, to its end. It always reads on: a process must not be stopped
// by a log.
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
