package client

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

// A client takes little at a time, so one write of the handler lasts long. Moved counts what the
// client has taken although the write has not returned.
func TestBytesMoveDuringWrite(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
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
