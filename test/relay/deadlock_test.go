package relay_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// much is more than the systems on the way buffer.
const much = 64 << 20

// A service breaks the connection in the middle of a large job, when it has sent an answer that does not fit
// into the sockets on the way. The client reads only when it has sent all. It gets through all the same, and
// the slot comes back.
func TestServiceBreaksWhileClientSends(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, config(addr, 1, "", svc.Addr))
	caddytest.LeakCheck(t)
	client := caddytest.Dial(t, addr)
	conn := svc.Next(t)
	answered := make(chan error, 1)
	go func() {
		// When this has been sent in part, the client does not take more.
		_ = conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		_, err := conn.Write(make([]byte, much))
		_ = conn.SetLinger(0)
		svc.Leave(conn)
		answered <- err
	}()
	if n, err := client.Write(make([]byte, much)); err != nil {
		t.Errorf("found %d bytes sent, %v, expected all", n, err)
	}
	if err := <-answered; err == nil {
		t.Error("found the whole answer sent, expected a part")
	}
	if n, err := io.Copy(io.Discard, client); n == 0 || err != nil {
		t.Errorf("found %d bytes of the answer, %v, expected some and the end", n, err)
	}
	caddytest.InLine(t, "default", 0, 0)
	client.Close()
}

// A client resets the connection while the service answers. The service takes the rest of the job only when it
// has said all. It can do both, and the slot comes back.
func TestClientResetsWhileServiceAnswers(t *testing.T) {
	job := make(chan int64, 1)
	svc := caddytest.NewService(t, func(conn *net.TCPConn) {
		for range 20 {
			_, _ = conn.Write([]byte("soon"))
			time.Sleep(20 * time.Millisecond)
		}
		_, _ = conn.Write(make([]byte, much))
		n, _ := io.Copy(io.Discard, conn)
		job <- n
	})
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, config(addr, 1, "", svc.Addr))
	caddytest.LeakCheck(t)
	client, whole := caddytest.Dial(t, addr), make([]byte, much)
	_ = client.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	sent, err := client.Write(whole)
	if err == nil {
		t.Error("found the whole job sent, expected a part")
	}
	_ = client.SetLinger(0)
	client.Close()
	caddytest.InLine(t, "default", 0, 0)
	if n := <-job; n == 0 || n > int64(sent) {
		t.Errorf("found %d bytes of the job, expected some, and %d at most", n, sent)
	}
}
