package caddytest

import (
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Line has the clients of one lock, numbered in the order in which they come. Its methods check that
// the service, which the test serves by hand, has as many of them as the limit allows, and that the
// next one is always the one that has waited longest.
type Line struct {
	Svc     *Service
	Lock    string
	Limit   int
	Come    func(t *testing.T, i int) net.Conn // client i, which sends its number
	Clients []net.Conn
	Served  map[int]*net.TCPConn // the clients at the service
	Next    int                  // the first in line
}

// NewLine returns an empty line for the lock "default" at addr.
func NewLine(svc *Service, addr string, limit int) *Line {
	return &Line{Svc: svc, Lock: "default", Limit: limit, Served: make(map[int]*net.TCPConn), Come: func(t *testing.T, i int) net.Conn {
		return DialSend(t, addr, Number(i))
	}}
}

// Join adds n clients, one after the other.
func (l *Line) Join(t *testing.T, n int) {
	t.Helper()
	for range n {
		l.Clients = append(l.Clients, l.Come(t, len(l.Clients)))
		l.Admit(t)
	}
}

// Leave ends the connection of client i, on the service's side first.
func (l *Line) Leave(t *testing.T, i int) {
	t.Helper()
	conn := l.Served[i]
	delete(l.Served, i)
	l.Svc.Leave(conn)
	l.Clients[i].Close()
	l.Admit(t)
}

// Reload loads a Caddyfile that sets this limit.
func (l *Line) Reload(t *testing.T, limit int, caddyfile string) {
	t.Helper()
	Load(t, caddyfile)
	l.Limit = limit
	l.Admit(t)
}

// Admit checks that the clients whose turn it is come to the service, and no others.
func (l *Line) Admit(t *testing.T) {
	t.Helper()
	first := l.Next
	for len(l.Served) < l.Limit && l.Next < len(l.Clients) {
		conn := l.Svc.Next(t)
		digits := make([]byte, len(Number(0)))
		if _, err := io.ReadFull(conn, digits); err != nil {
			t.Fatalf("client number %d: %v", l.Next, err)
		}
		i, _ := strconv.Atoi(string(digits))
		l.Served[i] = conn
		l.Next++
	}
	for i := first; i < l.Next; i++ { // several may come at once, in any order
		if l.Served[i] == nil {
			t.Fatalf("at the service are %v, expected client %d among them", slices.Sorted(maps.Keys(l.Served)), i)
		}
	}
	InLine(t, l.Lock, len(l.Served), len(l.Clients)-l.Next)
	if now, _, _ := l.Svc.Counts(); now != len(l.Served) {
		t.Fatalf("the service has %d connections, expected %d", now, len(l.Served))
	}
}

// Talk checks that all clients at the service can still talk to it.
func (l *Line) Talk(t *testing.T) {
	t.Helper()
	for i, conn := range l.Served {
		Send(t, l.Clients[i], "still here?")
		Expect(t, conn, "still here?")
		Send(t, conn, "yes")
		Expect(t, l.Clients[i], "yes")
	}
}

// Finish makes all clients leave, in a random order.
func (l *Line) Finish(t *testing.T) {
	t.Helper()
	for len(l.Served) > 0 {
		for i := range l.Served {
			l.Leave(t, i)
			break
		}
	}
}

// Noted returns the words that hooks have written into a file.
func Noted(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// Ask sends a question to a unix socket and checks that it gets the question back, and then the
// whole answer.
func Ask(t *testing.T, socket, question string, answer []byte) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(Patience))
	_, _ = io.WriteString(conn, question)
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != question+string(answer) {
		t.Errorf("%q: read %d bytes, error %v, expected %d bytes", question, len(got), err, len(question)+len(answer))
	}
}

// KeepAsking has this many clients, which ask at a unix socket again and again until end is called.
// asked counts the answers.
func KeepAsking(t *testing.T, clients int, socket string) (asked *atomic.Int32, end func()) {
	asked = new(atomic.Int32)
	var over atomic.Bool
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for !over.Load() {
				Ask(t, socket, "question", nil)
				asked.Add(1)
				time.Sleep(time.Millisecond) // otherwise the clients leave no processor to the test
			}
		})
	}
	return asked, func() {
		over.Store(true)
		all.Wait()
	}
}

// Socket returns a path for a unix socket. A path in t.TempDir may be too long for one.
func Socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tcplock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// Named returns the block of a lock with a name. If the name is empty, it is the default lock.
func Named(name string, slots int) string {
	if name == "" {
		return fmt.Sprintf("tcplock %d {\nlinger 0\n}", slots)
	}
	return fmt.Sprintf("tcplock %d {\nname %s\nlinger 0\n}", slots, name)
}
