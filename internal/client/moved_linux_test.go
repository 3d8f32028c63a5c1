package client

import (
	"io"
	"testing"
	"time"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

// A client takes little at a time, so one write of the handler lasts long. Moved counts what the
// client has taken although the write has not returned.
func TestBytesMoveDuringWrite(t *testing.T) {
	client, server := testkit.Pair(t)
	c := New(layer4.WrapConnection(server, nil, zap.NewNop()))
	go func() { _, _ = c.Write(make([]byte, 64<<20)) }()
	moves := func(least int64) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); c.Moved() < least; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("found %d bytes moved, expected at least %d", c.Moved(), least)
			}
		}
	}
	moves(1) // what fits into the sockets
	const takes = 32 << 20
	if _, err := io.CopyN(io.Discard, client, takes); err != nil {
		t.Fatal(err)
	}
	moves(takes)
	if n := c.Traffic.Out.Load(); n != 0 {
		t.Errorf("found the write over after %d bytes, expected it to last", n)
	}
}
