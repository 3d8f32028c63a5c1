package lock_test

import (
	"io"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/mholt/caddy-l4/layer4"
	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
	"go.uber.org/zap"
)

// Two locks stand on one connection's way, and the handler behind them reads only when the
// service has closed its side. The shorter linger holds, whichever lock has it.
func TestShortestLingerForLateReader(t *testing.T) {
	const long = 10 * time.Minute
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	events := new(caddyevents.App)
	if err := events.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	locked := func(name string, linger time.Duration) *tcplock.Handler {
		d := caddy.Duration(linger)
		l := lock.EnterLock(name)
		c := lock.NewConfig(l, "", lock.Settings{Linger: &d}, events, zap.NewNop())
		l.Activate(c)
		t.Cleanup(func() {
			l.Deactivate(c)
			l.Exit()
		})
		h := new(tcplock.Handler)
		h.Use(c, nil)
		return h
	}
	for _, lingers := range [][2]time.Duration{{long, 0}, {0, long}} {
		outer, inner := locked("outer", lingers[0]), locked("inner", lingers[1])
		_, server := testkit.Pair(t)
		over := make(chan struct{})
		go func() {
			serve := layer4.HandlerFunc(func(cx *layer4.Connection) error {
				defer close(over)
				_ = cx.Conn.(interface{ CloseWrite() error }).CloseWrite()
				_, _ = io.Copy(io.Discard, cx)
				return nil
			})
			_ = outer.Handle(layer4.WrapConnection(server, nil, zap.NewNop()), layer4.HandlerFunc(func(cx *layer4.Connection) error {
				return inner.Handle(cx, serve)
			}))
		}()
		select {
		case <-over:
		case <-time.After(20 * time.Second):
			t.Errorf("lingers %v: found a silent client still read from after 20 s, expected it not to be waited for", lingers)
		}
	}
}
