//go:build unix

package ending_test

import (
	"bytes"
	"io"
	mathrand "math/rand/v2"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A client sends a request, and then more than the service reads. The service replies with 5 MB
// and closes without reading the rest. The reply arrives whole, also at a client that reads
// slowly. Its end is still on its way when the proxy is done: a close with unread bytes of the
// client would destroy it.
func TestBigReplyArrivesWholeDespiteSurplus(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	reply := make([]byte, 5<<20)
	_, _ = mathrand.NewChaCha8([32]byte{}).Read(reply)
	surplus := make([]byte, 16<<20)
	for _, w := range caddytest.Ways {
		for _, linger := range lingers {
			for _, pace := range []struct {
				name  string
				pause time.Duration
			}{{"fast", 0}, {"slow", 5 * time.Millisecond}} {
				t.Run(w.Name+"/"+linger.name+"/"+pace.name, func(t *testing.T) {
					svc := caddytest.NewService(t, func(conn *net.TCPConn) {
						_, _ = io.ReadFull(conn, make([]byte, len(w.Passed()+"request")))
						_, _ = conn.Write(reply)
						_ = conn.CloseWrite()
						for unacknowledged(conn) > 0 {
							time.Sleep(time.Millisecond)
						}
					})
					addr := w.Serve(t, "tcplock {\n"+linger.option+"\n}", svc.Addr)
					caddytest.LeakCheck(t)
					c := w.Come(t, addr, "request")
					go c.Write(surplus)
					got := slowly{c, pace.pause}.readAll(t)
					if !bytes.Equal(got, reply) {
						t.Errorf("read %d bytes, expected the %d of the reply", len(got), len(reply))
					}
				})
			}
		}
	}
}

// unacknowledged returns how many bytes written to conn the other side's system does not have
// yet.
func unacknowledged(conn *net.TCPConn) (n int) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
	return n
}

// slowly reads to the end with a pause before each read.
type slowly struct {
	io.Reader
	pause time.Duration
}

func (r slowly) readAll(t *testing.T) []byte {
	t.Helper()
	var all bytes.Buffer
	for {
		time.Sleep(r.pause)
		if _, err := io.CopyN(&all, r.Reader, 64<<10); err == io.EOF {
			return all.Bytes()
		} else if err != nil {
			t.Fatalf("read %d bytes, then: %v", all.Len(), err)
		}
	}
}
