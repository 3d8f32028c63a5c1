package relay

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
)

// Client is the client's side of a relay.
type Client interface {
	io.ReadWriter
	CloseWrite() error // no more will come from the service: Read returns io.EOF when the client has been silent for too long
	EndInput()         // Read returns an error from now on
}

// Copy copies between client and service until both are done, and closes the service's connection. The error
// is that of reading from the service: a client that goes is no error.
//
// When the service does not take what the client sends, it may still have sent an answer before it closed. So
// Copy then reads on from the service, until its end.
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
	err := receive(client, service)
	_ = client.CloseWrite() // linger counts from here
	if err == nil {
		<-sending.done
		served = true
	}
	return err
}

// sender is the goroutine that copies from the client to the service.
type sender struct {
	done     chan struct{}
	panicked error
}

func (s *sender) run(client Client, service Service) {
	defer close(s.done)
	defer func() {
		if p := recover(); p != nil {
			s.panicked = fmt.Errorf("%v\n%s", p, debug.Stack())
			service.Close() // so that receive ends
		}
	}()
	send(client, service)
}

// end waits for the goroutine, and panics if it has: then its caller does what is to be done about a panic.
func (s *sender) end() {
	<-s.done
	if s.panicked != nil {
		panic(s.panicked)
	}
}

// buffers are shared: most connections are short.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// send copies from the client to the service, until the client is done or the service takes no more.
func send(client Client, service Service) {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := client.Read(buf[:])
		if n > 0 {
			if _, err := service.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil { // the client has closed its side, or has gone: the service may finish
			_ = service.CloseWrite()
			return
		}
	}
}

// receive copies from the service to the client, until one of them is done.
func receive(client Client, service Service) error {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := service.Read(buf[:])
		if n > 0 {
			if _, err := client.Write(buf[:n]); err != nil {
				return nil // the client has gone
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
