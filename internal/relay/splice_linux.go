package relay

import (
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/fds"
)

// pipe moves bytes from one socket to another inside the system. It never blocks a thread: Go's poller waits for
// the sockets, with their deadlines.
type pipe struct {
	in, out            int // what goes in at one comes out at the other
	from, to           Plain
	readable, writable syscall.RawConn
	fill, drain        func(fd uintptr) (done bool) // made once
	release            func()                       // gives the descriptors back to the budget

	left  int   // bytes to move by drain
	moved int   // by the last system call
	err   error // of the last system call
}

// pipeSizes are the sizes to try. One user's pipes may hold 64 MiB in all, unless the system is told otherwise.
// Through a pipe of the system's own size, 64 KiB, bytes go more slowly than through a buffer.
var pipeSizes = [...]int{1 << 20, 256 << 10}

// newPipe returns nil if a socket is out of reach, or if no pipe can be had: the budget, the process and the user
// may have no more.
func newPipe(from, to Plain) *pipe {
	readable, writable := from.Socket(), to.Socket()
	if readable == nil || writable == nil {
		return nil
	}
	release, ok := fds.Process.Spare(2)
	if !ok {
		return nil
	}
	var both [2]int
	if err := unix.Pipe2(both[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		release()
		return nil
	}
	p := &pipe{in: both[1], out: both[0], from: from, to: to, readable: readable, writable: writable, release: release}
	if p.resize() != nil {
		p.close()
		return nil
	}
	p.fill = func(fd uintptr) bool { return p.splice(int(fd), p.in, pipeSizes[0]) }
	p.drain = func(fd uintptr) bool { return p.splice(p.out, int(fd), p.left) }
	return p
}

func (p *pipe) resize() (err error) {
	for _, size := range pipeSizes {
		if _, err = unix.FcntlInt(uintptr(p.in), unix.F_SETPIPE_SZ, size); err == nil {
			break
		}
	}
	return err
}

func (p *pipe) close() {
	unix.Close(p.in)
	unix.Close(p.out)
	p.release()
}

// splice returns false if the socket must be waited for.
func (p *pipe) splice(from, to, most int) (done bool) {
	for {
		n, err := unix.Splice(from, nil, to, nil, most, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		p.moved, p.err = max(0, int(n)), err
		return true
	}
}

// read moves what has come into the pipe, which is empty. It returns 0 and no error if the system does not splice
// from such a socket.
func (p *pipe) read() (n int, err error) {
	return p.from.ReadBy(p.receive)
}

func (p *pipe) receive() (n int, err error) {
	p.moved, p.err = 0, nil
	if err := p.readable.Read(p.fill); err != nil {
		return 0, err
	}
	switch {
	case p.err == unix.EINVAL, p.err == unix.ENOSYS, p.err == unix.EPERM:
		return 0, nil
	case p.err != nil:
		return 0, os.NewSyscallError("splice", p.err)
	case p.moved == 0:
		return 0, io.EOF
	}
	return p.moved, nil
}

// write moves the n bytes in the pipe on.
func (p *pipe) write(n int) (sent int, err error) {
	for sent < n {
		p.left, p.moved, p.err = n-sent, 0, nil
		if err := p.writable.Write(p.drain); err != nil {
			return sent, err
		}
		switch {
		case p.err != nil:
			return sent, p.err
		case p.moved == 0:
			return sent, io.ErrShortWrite
		}
		sent += p.moved
		p.to.Wrote(p.moved)
	}
	return sent, nil
}

// take takes bytes out of the pipe, which has some.
func (p *pipe) take(b []byte) (n int, err error) {
	for {
		if n, err = unix.Read(p.out, b); err != unix.EINTR {
			return max(0, n), os.NewSyscallError("read", err)
		}
	}
}
