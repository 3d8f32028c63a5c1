package relay

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/sock"
)

// Client is the client's side of a relay.
type Client interface {
	io.ReadWriter
	WriteLast(b []byte) (int, error) // is Write just before CloseWrite
	CloseWrite() error               // no more will come from the service: Read returns io.EOF when the client has been silent for too long
	Lingers() bool                   // that time is more than 0
	EndInput()                       // Read returns an error from now on
	Discarded(in, out int)           // counts bytes that have come from one side and go to none
	Plain() Plain                    // nil if there is more to its bytes than those of a socket
}

// Relay copies between a client and the service. The goroutine that calls Run copies what the service sends.
// What the client sends is copied by a second one, the sender, which Send starts. It may start late, or never.
//
// When one side takes no more, the relay reads on from it, and throws away what the other side sends for it. The
// service may have sent an answer before it broke the connection, and the client may have sent a job before it
// went. And a side that first sends all and then reads would otherwise stand for ever.
type Relay struct {
	client  Client
	service Service

	claimed  atomic.Bool    // the sender has started, or never will
	sent     sync.WaitGroup // until the sender has ended, or never will start
	ended    atomic.Bool    // the sender has ended
	panicked error          // of the sender

	// Each side sets its flag and then looks at the other's, so one of them sees both.
	broken   atomic.Bool // the service takes no more
	received atomic.Bool // the service sends no more, or the client takes no more
	last     atomic.Bool // the sender closes the service's connection, see outlive
}

// New returns a relay. Its sender has not started.
func New(client Client, service Service) *Relay {
	r := &Relay{client: client, service: service}
	r.sent.Add(1)
	return r
}

// Copy copies in both directions until both sides are done, see Run.
func Copy(client Client, service Service) error {
	r := New(client, service)
	r.Send()
	return r.Run()
}

// Send starts the sender, if it has not started.
func (r *Relay) Send() {
	if r.claimSender() {
		go r.sender()
	}
}

// SendEnd does what the sender does at the end, for a client that has nothing left to send. It does not wait.
func (r *Relay) SendEnd() {
	if r.claimSender() {
		_ = r.service.CloseWrite()
		r.ended.Store(true)
		r.sent.Done()
	}
}

// claimSender reports whether the caller is the first that may start the sender.
func (r *Relay) claimSender() bool { return r.claimed.CompareAndSwap(false, true) }

// Forward copies what the client has sent already. read must not wait. It is called before Run and Send, if at all.
func (r *Relay) Forward(read func([]byte) (int, error)) {
	buf := takeBuffer()
	defer returnBuffer(buf)
	n, err := read(buf[:])
	r.pass(n, func(n int) (int, error) { return r.service.Write(buf[:n]) })
	if err != nil && err != sock.ErrNotNow {
		r.Send() // it tells the service
	}
}

// pass writes n bytes of the client to the service.
func (r *Relay) pass(n int, write func(n int) (int, error)) {
	sent := 0
	if n > 0 && !r.broken.Load() {
		var failed error
		if sent, failed = write(n); failed != nil {
			r.broken.Store(true)
		}
	}
	r.client.Discarded(n-sent, 0)
}

// Run copies until both sides are done, and closes the service's connection. The error is that of reading from
// the service: a client that goes is no error.
func (r *Relay) Run() error {
	defer r.endSender()
	defer r.service.Close()
	served := false
	defer func() {
		if !served { // what the client says from now on is for no service
			r.client.EndInput()
		}
	}()
	gone, err := r.receive()
	_ = r.client.CloseWrite() // linger counts from here
	r.received.Store(true)
	if gone {
		r.outlive()
	}
	if err == nil && !r.broken.Load() {
		r.linger()
		served = true
	}
	return err
}

// linger sends on until the client is done.
func (r *Relay) linger() {
	switch {
	case !r.claimSender():
		r.sent.Wait()
	case r.client.Lingers():
		r.sender()
	default:
		r.sent.Done()
	}
}

// endSender waits for the sender, and panics if it has: then its caller does what is to be done about a panic.
func (r *Relay) endSender() {
	if r.claimSender() {
		r.sent.Done()
	}
	r.sent.Wait()
	if r.panicked != nil {
		panic(r.panicked)
	}
}

// outlive reads on from the service after the client has gone, until all that the client has sent is there.
func (r *Relay) outlive() {
	r.last.Store(true)
	r.Send()
	buf := takeBuffer()
	defer returnBuffer(buf)
	for !r.ended.Load() {
		n, err := r.service.Read(buf[:])
		r.client.Discarded(0, n)
		if err != nil {
			return
		}
	}
}

// receive copies from the service to the client, until one of them is done. It reports whether the client has
// gone before the service was done.
func (r *Relay) receive() (gone bool, err error) {
	f := newFlow(r.client, r.service, false)
	defer f.end()
	for {
		n, err := f.read()
		if n > 0 {
			if sent, failed := f.write(n); failed != nil {
				r.client.Discarded(0, n-sent)
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

// sender copies what the client sends. Only the winner of claimSender may call it.
func (r *Relay) sender() {
	defer func() {
		r.ended.Store(true)
		r.sent.Done()
		if r.last.Load() {
			r.service.Close()
		}
	}()
	defer func() {
		if p := recover(); p != nil {
			r.panicked = fmt.Errorf("%v\n%s", p, debug.Stack())
			r.service.Close() // so that receive ends
		}
	}()
	r.send()
}

// send copies from the client to the service, until the client is done or the relay is over.
func (r *Relay) send() {
	f := newFlow(r.client, r.service, true)
	defer f.end()
	for {
		n, err := f.read()
		r.pass(n, f.write)
		switch {
		case err != nil: // the client has closed its side, or has gone: the service may finish
			_ = r.service.CloseWrite()
			return
		case r.broken.Load() && r.received.Load():
			return
		}
	}
}
