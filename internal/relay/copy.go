package relay

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"
)

// Client is the client's side of a relay.
type Client interface {
	io.ReadWriter
	CloseWrite() error     // no more will come from the service: Read returns io.EOF when the client has been silent for too long
	EndInput()             // Read returns an error from now on
	Discarded(in, out int) // counts bytes that have come from one side and go to none
	Plain() Plain          // nil if there is more to its bytes than those of a socket
}

// Copy copies between client and service until both are done, and closes the service's connection. The error
// is that of reading from the service: a client that goes is no error.
//
// When one side takes no more, Copy reads on from it, and throws away what the other side sends for it. The
// service may have sent an answer before it broke the connection, and the client may have sent a job before it
// went. And a side that first sends all and then reads would otherwise stand for ever.
func Copy(client Client, service Service) error {
	sending := sender{done: make(chan struct{})}
	go sending.run(client, service)
	defer sending.end()
	defer service.Close()
	served := false
	defer func() {
		if !served { // what the client says from now on is for no service
			client.EndInput()
		}
	}()
	gone, err := receive(client, service)
	_ = client.CloseWrite() // linger counts from here
	sending.received.Store(true)
	if gone {
		sending.outlive(client, service)
	}
	if err == nil && !sending.broken.Load() {
		<-sending.done
		served = true
	}
	return err
}

// sender is the goroutine that copies from the client to the service.
type sender struct {
	done     chan struct{}
	panicked error

	// Each side sets its flag and then looks at the other's, so one of them sees both.
	broken   atomic.Bool // the service takes no more
	received atomic.Bool // the service sends no more, or the client takes no more
	last     atomic.Bool // the sender closes the service's connection, see outlive
}

func (s *sender) run(client Client, service Service) {
	defer func() {
		close(s.done)
		if s.last.Load() {
			service.Close()
		}
	}()
	defer func() {
		if p := recover(); p != nil {
			s.panicked = fmt.Errorf("%v\n%s", p, debug.Stack())
			service.Close() // so that receive ends
		}
	}()
	s.send(client, service)
}

// end waits for the goroutine, and panics if it has: then its caller does what is to be done about a panic.
func (s *sender) end() {
	<-s.done
	if s.panicked != nil {
		panic(s.panicked)
	}
}

// outlive reads on from the service after the client has gone, until all that the client has sent is there.
func (s *sender) outlive(client Client, service Service) {
	s.last.Store(true)
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		select {
		case <-s.done:
			return
		default:
		}
		n, err := service.Read(buf[:])
		client.Discarded(0, n)
		if err != nil {
			return
		}
	}
}

// send copies from the client to the service, until the client is done or the relay is over.
func (s *sender) send(client Client, service Service) {
	f := newFlow(client, service, true)
	defer f.end()
	for {
		n, err := f.read()
		sent := 0
		if n > 0 && !s.broken.Load() {
			var failed error
			if sent, failed = f.write(n); failed != nil {
				s.broken.Store(true)
			}
		}
		client.Discarded(n-sent, 0)
		switch {
		case err != nil: // the client has closed its side, or has gone: the service may finish
			_ = service.CloseWrite()
			return
		case s.broken.Load() && s.received.Load():
			return
		}
	}
}

// receive copies from the service to the client, until one of them is done. It reports whether the client has
// gone before the service was done.
func receive(client Client, service Service) (gone bool, err error) {
	f := newFlow(client, service, false)
	defer f.end()
	for {
		n, err := f.read()
		if n > 0 {
			if sent, failed := f.write(n); failed != nil {
				client.Discarded(0, n-sent)
				return true, nil
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return false, nil
		case err != nil:
			return false, err
		}
	}
}
