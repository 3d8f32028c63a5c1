package relay_test

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The service answers, and closes outright although the client still sends: its system then resets the
// connection. The answer, which the service had sent before, arrives whole each time, and its end.
func TestAnswerBeforeReset(t *testing.T) {
	const rounds, late = 30, 48_000
	answer := bytes.Repeat([]byte("answer "), 8_000)
	half := make(chan struct{})
	sent := make(chan struct{})
	svc := caddytest.NewService(t, func(conn *net.TCPConn) {
		_, _ = io.ReadFull(conn, make([]byte, len("request")))
		_, _ = conn.Write(answer[:len(answer)/2])
		half <- struct{}{}
		<-sent
		_, _ = conn.Write(answer[len(answer)/2:])
	})
	addr := caddytest.FreeAddr(t)
	caddytest.Load(t, config(addr, 1, "", svc.Addr))
	caddytest.LeakCheck(t)
	whole := 0
	for range rounds {
		conn := caddytest.Dial(t, addr)
		caddytest.Send(t, conn, "request")
		<-half
		_, _ = conn.Write(make([]byte, late))
		sent <- struct{}{}
		got, err := io.ReadAll(conn)
		if err == nil && bytes.Equal(got, answer) {
			whole++
		}
		conn.Close()
	}
	if whole != rounds {
		t.Errorf("found %d of %d answers whole, expected all", whole, rounds)
	}
	caddytest.InLine(t, "default", 0, 0)
}

// A service breaks the connection while the client is silent. The slot is free at once, whatever linger says:
// there is nothing that the service could still take. The outcome says what has happened.
func TestServiceBreaksConnection(t *testing.T) {
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	caddytest.Load(t, caddytest.RouteConfig(addr, "tcplock {\nto "+svc.Addr+"\nlinger 1h\n}"))
	caddytest.LeakCheck(t)
	for range 3 {
		client := caddytest.Dial(t, addr)
		conn := svc.Next(t)
		caddytest.Send(t, conn, "answer")
		caddytest.Expect(t, client, "answer")
		_ = conn.SetLinger(0)
		svc.Leave(conn)
		caddytest.ExpectEOF(t, client)
		caddytest.InLine(t, "default", 0, 0)
		client.Close()
	}
	if s := caddytest.Status(t, "default"); s.Connections[status.ServiceError] != 3 || s.Workers[0].State != status.WorkerUp {
		t.Errorf("found %+v, expected 3 service errors, and the service up", s)
	}
}
