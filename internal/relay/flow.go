package relay

import (
	"io"
	"sync"
	"syscall"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/sock"
)

// Plain is a side of a relay with nothing between its bytes and its socket, such as TLS. Its bytes need not pass
// through this process.
type Plain interface {
	Socket() syscall.RawConn                      // nil: out of reach
	ReadBy(take func() (int, error)) (int, error) // does all that Read does, but take reads from the socket
	Wrote(n int)                                  // counts bytes that were written to the socket, and not by Write
}

// SpliceAfter is how many bytes go through a buffer in each direction, before a pipe is worth its descriptors.
const SpliceAfter = 64 << 10

// little is so few bytes at a time that they need no pipe. A side that talks all day and says little must not
// keep one.
const little = 4 << 10

// buffers are shared: most connections are short.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func takeBuffer() *[32 << 10]byte    { return buffers.Get().(*[32 << 10]byte) }
func returnBuffer(b *[32 << 10]byte) { buffers.Put(b) }

// flow carries bytes in one direction: through a buffer, and after SpliceAfter bytes through a pipe, if both
// sides are plain.
type flow struct {
	from    io.Reader
	to      io.Writer
	client  Client
	service Service
	up      bool // from the client to the service
	buf     *[32 << 10]byte
	carried int   // since the last try to have a pipe
	pipe    *pipe // nil: the bytes go through buf
	piped   int   // by the last read through the pipe
	failed  bool  // the pipe, or a write: no pipe from now on
	last    bool  // the next write is
}

// newFlow returns the flow from the client to the service, or the other one.
func newFlow(client Client, service Service, up bool) flow {
	f := flow{from: client, to: service, client: client, service: service, up: up}
	if !up {
		f.from, f.to = service, client
	}
	f.buf = takeBuffer()
	return f
}

// newPipe returns nil if no pipe can be had.
func (f *flow) newPipe() *pipe {
	client, service := f.client.Plain(), plainService{f.service}
	switch {
	case client == nil:
		return nil
	case f.up:
		return newPipe(client, service)
	}
	return newPipe(service, client)
}

// end must be called once.
func (f *flow) end() {
	returnBuffer(f.buf)
	f.endPipe()
}

func (f *flow) endPipe() {
	if f.pipe != nil {
		f.pipe.close()
		f.pipe = nil
	}
}

// read reads what write can then write. What is not written before the next read is thrown away, and then nothing
// more may be written.
func (f *flow) read() (n int, err error) {
	if f.failed || f.piped < little {
		f.endPipe()
	}
	if f.carried >= SpliceAfter && !f.failed {
		f.carried = 0
		f.pipe = f.newPipe()
	}
	if f.pipe != nil {
		f.piped, err = f.pipe.read()
		if f.piped > 0 || err != nil {
			return f.piped, err
		}
		f.failed = true // the system does not splice from such a socket
		f.endPipe()
	}
	n, err = f.from.Read(f.buf[:])
	if s, ok := f.from.(*sock.Conn); ok && err == nil && n < len(f.buf) {
		n, err = f.readOn(s, n)
	}
	f.carried += n
	return n, err
}

// readOn reads what has come after the first n bytes. If it is the end, it goes to the client with these bytes.
func (f *flow) readOn(from *sock.Conn, n int) (int, error) {
	more, err := from.TryRead(f.buf[n:])
	if err == sock.ErrNotNow {
		err = nil
	}
	f.last = err == io.EOF
	return n + more, err
}

// write writes the n bytes that read has read. Where a pipe fails, Write of the other side gets what is left,
// and does what is to be done about the failure.
func (f *flow) write(n int) (sent int, err error) {
	if f.pipe == nil {
		write := f.to.Write
		if f.last {
			write = f.client.WriteLast
		}
		sent, err = write(f.buf[:n])
		f.failed = f.failed || err != nil
		return sent, err
	}
	if sent, err = f.pipe.write(n); err == nil {
		return sent, nil
	}
	f.failed = true
	for sent < n {
		left, err := f.pipe.take(f.buf[:])
		if err != nil {
			return sent, err
		}
		more, err := f.to.Write(f.buf[:left])
		sent += more
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// plainService is a service's connection as a plain side. Its bytes are counted at the client's side.
type plainService struct{ Service }

func (s plainService) Socket() syscall.RawConn {
	if socket, ok := s.Service.(syscall.Conn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

func (plainService) ReadBy(take func() (int, error)) (int, error) { return take() }
func (plainService) Wrote(int)                                    {}
