package service

import (
	"bufio"
	"context"
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
	service *Service
	id      ID
	logger  func() *zap.Logger
	cmd     *exec.Cmd
	out     *os.File      // the read end of its output
	over    chan struct{} // closed when it has ended, see Exited
	err     error
	drained chan struct{} // its output has been read to the end

	group *proc.Group
	mu    sync.Mutex
	swept bool // it has ended: its group gets no signal any more
}

// startProcess is the Starter of real processes.
func startProcess(s *Service, id ID, logger func() *zap.Logger) (Process, error) {
	if err := s.checkVacant(id); err != nil {
		return nil, err
	}
	base := logger
	logger = func() *zap.Logger { return base().With(zap.String("lock", id.Lock), zap.Int("slot", id.Slot)) }
	cmd, err := s.prepare(id, s.Command, s.Args)
	if err != nil {
		return nil, err
	}
	// The pipe is our own, not os/exec's. See proc.Run for the reasons.
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
		copyLines(r, func() *zap.Logger { return logger().With(zap.Int("pid", p.PID())) })
	}()
	return p, nil
}

// prepare returns a command with the directory and the environment of the service.
func (s *Service) prepare(id ID, command string, args []string) (*exec.Cmd, error) {
	return proc.Spec{Command: command, Args: args, Dir: s.Dir, Env: s.Env}.Prepare(id.values())
}

// live starts the process and waits for its end, both on one thread: on Linux, the signal that a
// process gets when its parent dies comes when the thread that started it ends.
func (p *osProcess) live(started chan<- error) {
	defer fds.Process.Take(fds.PerProcess)()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.over)
	p.group = proc.OpenGroup(p.logger)
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

// sweep kills what the process has left in its group. The group gets no signal after that.
func (p *osProcess) sweep(bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swept = true
	p.group.Sweep()
}

func (p *osProcess) PID() int                { return p.cmd.Process.Pid }
func (p *osProcess) Exited() <-chan struct{} { return p.over }
func (p *osProcess) Cause() error            { return p.err }

func (p *osProcess) Memory() (uint64, error) { return proc.Memory(p.PID()) }

// Terminate and Kill do nothing after the end: the pid or the group may be another process's by
// then.
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

// Release waits for the end of the output: then the processes that were killed with this one have
// released their ports as well. A process that has moved to a group of its own may still hold the
// output. It loses it.
func (p *osProcess) Release() {
	clock.Wait(p.drained, proc.OutputDelay)
	_ = p.out.Close()
	<-p.drained
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
