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
	"go.uber.org/zap/zapcore"
)

// BenchmarkConnection measures what the lock adds to a connection that need not wait: all of Handle
// but the next handler, which here answers with nothing. It opens no sockets, since the system's
// work would hide that of the lock. The client's socket is checked once, as always.
func BenchmarkConnection(b *testing.B) {
	_, conn := testkit.Pair(b)

	ctx, err := caddy.ProvisionContext(new(caddy.Config)) // for a log without debug lines of each event
	if err != nil {
		b.Fatal(err)
	}
	events, err := ctx.App("events")
	if err != nil {
		b.Fatal(err)
	}

	answer := layer4.HandlerFunc(func(cx *layer4.Connection) error {
		_, err := cx.Write(nil)
		return err
	})
	run := func(b *testing.B, handle func(cx *layer4.Connection) error) {
		b.ReportAllocs()
		for b.Loop() {
			if err := handle(layer4.WrapConnection(conn, nil, zap.NewNop())); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("lock=none", func(b *testing.B) { run(b, answer.Handle) })
	locked := func(log *zap.Logger, settings lock.Settings) func(b *testing.B) {
		return func(b *testing.B) {
			l := lock.EnterLock(b.Name())
			defer l.Exit()
			c := lock.NewConfig(l, "", settings, events.(*caddyevents.App), log)
			l.Activate(c)
			defer l.Deactivate(c)
			h := new(tcplock.Handler)
			h.Use(c, nil)
			run(b, func(cx *layer4.Connection) error { return h.Handle(cx, answer) })
		}
	}
	json := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(io.Discard), zap.InfoLevel))
	b.Run("lock=quiet", locked(zap.NewNop(), lock.Settings{}))
	b.Run("lock=logging", locked(json, lock.Settings{}))
	b.Run("lock=hold_timeout", locked(zap.NewNop(), lock.Settings{HoldTimeout: caddy.Duration(time.Minute)}))
}
