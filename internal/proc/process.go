package proc

import (
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
)

// Process is a running command with all that it has started, except what has moved to another group.
type Process struct {
	cmd    *exec.Cmd
	group  *group
	exited chan struct{} // closed when it has ended, and what was to end with it has been killed
	err    error

	output *os.File      // the read end
	read   chan struct{} // closed when the output has been read

	mu   sync.Mutex
	over bool // it has ended: its group gets no signal any more
}

// Start starts the process of a service, or with a nil logger a command. read reads its output. What
// it leaves behind in its group is killed at its end, but that of a command only if it has failed. If
// Caddy dies, the system or the guard kills the group of a service.
//
// The pipe of the output is our own, not that of os/exec, for two reasons. os/exec would wait for the
// end of the output before the rest of a failed command's group could be killed. And it would close
// the pipe that a daemon has inherited, so that the daemon dies when it prints again.
func Start(cmd *exec.Cmd, logger func() *zap.Logger, read func(io.ReadCloser)) (*Process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	p := &Process{cmd: cmd, output: r, exited: make(chan struct{}), read: make(chan struct{})}
	started := make(chan error)
	go p.live(logger, started)
	err = <-started
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	go func() {
		defer close(p.read)
		read(r)
	}()
	return p, nil
}

// live starts the process and waits for its end, both on one thread: on Linux, the signal that a
// process gets when its parent dies comes when the thread that started it ends.
func (p *Process) live(logger func() *zap.Logger, started chan<- error) {
	descriptors := int64(fds.PerProcess)
	if logger == nil {
		descriptors = fds.PerWait
	}
	defer fds.Process.Take(descriptors)()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.exited)
	p.group = openGroup(logger)
	defer p.group.close()
	p.group.join(p.cmd)
	if logger != nil {
		dieWithParent(p.cmd)
	}
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	p.group.watch(p.PID())
	started <- nil
	p.err = waitThen(p.cmd, func(failed bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.over = true
		if failed || logger != nil {
			p.group.sweep()
		}
	})
}

// signal calls send unless the process has ended: its pid or the number of its group may be another
// process's by then.
func (p *Process) signal(send func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return nil
	}
	return send()
}

// PID returns the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited returns a channel that is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Cause tells how the process has ended: nil is status 0. Call it after Exited only.
func (p *Process) Cause() error { return p.err }

// Terminate asks the process and its group to end.
func (p *Process) Terminate() { _ = p.signal(p.group.terminate) }

// Kill kills the process and its group.
func (p *Process) Kill() {
	_ = p.signal(func() error {
		_ = p.group.kill()
		return p.cmd.Process.Kill() // it may have moved to another group
	})
}

// Release waits for the end of the output: then the processes that were killed with this one have
// released their ports as well. A process that has moved to a group of its own may still hold the
// output. It loses it.
func (p *Process) Release() {
	clock.Wait(p.read, OutputDelay)
	_ = p.output.Close()
	<-p.read
}
