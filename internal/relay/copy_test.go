package relay

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// brittle is one side of a relay. One of its calls panics.
type brittle struct {
	net.Conn
	panics string
	ended  atomic.Bool
}

func (b *brittle) call(name string) {
	if b.panics == name {
		panic("test: " + name)
	}
}

func (b *brittle) Read(p []byte) (int, error) {
	b.call("Read")
	if b.ended.Load() {
		return 0, io.EOF
	}
	return b.Conn.Read(p)
}

func (b *brittle) Write(p []byte) (int, error) {
	b.call("Write")
	return b.Conn.Write(p)
}

func (b *brittle) CloseWrite() error {
	b.call("CloseWrite")
	return nil
}

func (b *brittle) WriteLast(p []byte) (int, error) { return b.Write(p) }

func (b *brittle) Lingers() bool { return true }

func (b *brittle) Discarded(in, out int) {
	b.call("Discarded")
}

func (b *brittle) Plain() Plain { return nil }

func (b *brittle) EndInput() {
	b.ended.Store(true)
	_ = b.SetReadDeadline(time.Unix(1, 0))
}

// A panic in either goroutine of a relay reaches the caller of Copy, once. By then the other goroutine has
// ended, and the connection to the service is closed.
func TestPanicReachesCaller(t *testing.T) {
	for _, side := range []string{"client", "service"} {
		for _, call := range []string{"Read", "Write", "CloseWrite", "Discarded"} {
			if side == "service" && call == "Discarded" {
				continue
			}
			t.Run(side+" "+call, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					clientEnd, clientConn := net.Pipe()
					serviceConn, serviceEnd := net.Pipe()
					client, service := &brittle{Conn: clientConn}, &brittle{Conn: serviceConn}
					if side == "client" {
						client.panics = call
					} else {
						service.panics = call
					}
					caught := make(chan any)
					go func() {
						defer func() { caught <- recover() }()
						_ = Copy(client, service)
					}()
					for _, end := range []net.Conn{clientEnd, serviceEnd} {
						go func() { _, _ = io.Copy(io.Discard, end) }()
						go func() { _, _ = end.Write([]byte("hello")) }()
					}
					time.Sleep(time.Second)
					switch {
					case side == "client" && call == "CloseWrite": // comes when the service is done
						serviceEnd.Close()
					case call == "CloseWrite":
						clientEnd.Close()
					}
					select {
					case p := <-caught:
						if p == nil || !strings.Contains(fmt.Sprint(p), "test: "+call) {
							t.Errorf("found %v, expected the panic of %s", p, call)
						}
					case <-time.After(time.Minute):
						t.Error("Copy has not returned")
					}
					if _, err := service.Conn.Write(nil); err == nil {
						t.Error("found the service's connection open")
					}
					clientConn.Close()
				})
			})
		}
	}
}
