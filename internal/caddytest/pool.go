package caddytest

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// PoolConfig returns the Caddyfile of a lock in front of workers, with more options.
func PoolConfig(addr, options string, workers ...string) string {
	return LockConfig(addr, PoolLock(options, workers...), "{l4.tcplock.worker}")
}

// PoolLock returns the block of that lock.
func PoolLock(options string, workers ...string) string {
	return fmt.Sprintf("tcplock {\nlinger 0\nworkers %s\n%s\n}", strings.Join(workers, " "), options)
}

// Gets checks that client i is the next to come to the worker, with all that it has sent.
func (s *Service) Gets(t *testing.T, i int) *net.TCPConn {
	t.Helper()
	for {
		conn := s.Next(t)
		_ = conn.SetReadDeadline(time.Now().Add(Patience))
		got := make([]byte, len(Number(0)))
		if n, err := io.ReadFull(conn, got); err != nil && n == 0 {
			s.Leave(conn) // the lock has checked the worker
			continue
		}
		if string(got) != Number(i) {
			t.Fatalf("client %s has come to the worker, expected %s", got, Number(i))
		}
		return conn
	}
}

// NeverTwo checks that no worker had two connections at any time.
func NeverTwo(t *testing.T, workers ...*Service) {
	t.Helper()
	for i, w := range workers {
		if _, most, _ := w.Counts(); most > 1 {
			t.Errorf("worker %d had %d connections at once, expected 1", i, most)
		}
	}
}

// NextCall waits for the next hook. It must be one of these, each given as a moment and a slot.
func NextCall(t *testing.T, hooks <-chan Hook, of ...any) Hook {
	t.Helper()
	select {
	case h := <-hooks:
		for i := 0; i < len(of); i += 2 {
			if h.On == of[i] && h.Slot == of[i+1] {
				return h
			}
		}
		t.Fatalf("hook %s of slot %d has run, expected %v", h.On, h.Slot, of)
		return Hook{}
	case <-time.After(Patience):
		t.Fatalf("no hook has run, expected %v", of)
		return Hook{}
	}
}
