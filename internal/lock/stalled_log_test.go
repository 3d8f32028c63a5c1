package lock_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/mholt/caddy-l4/layer4"
	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// stallingCore is a log that blocks at one line until goOn is closed.
type stallingCore struct {
	zapcore.Core
	line    string
	stalled chan struct{} // closed when it blocks
	goOn    chan struct{}
}

func (s stallingCore) Enabled(zapcore.Level) bool { return true }

func (s stallingCore) With([]zapcore.Field) zapcore.Core { return s }

func (s stallingCore) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, s)
}

func (s stallingCore) Write(e zapcore.Entry, _ []zapcore.Field) error {
	if strings.Contains(e.Message, s.line) {
		close(s.stalled)
		<-s.goOn
	}
	return nil
}

// A log that blocks does not delay the end of a connection: the line about a left-over connection
// is not written under a mutex.
func TestStalledLog(t *testing.T) {
	ctx, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		t.Fatal(err)
	}
	events, err := ctx.App("events")
	if err != nil {
		t.Fatal(err)
	}
	log := stallingCore{Core: zapcore.NewNopCore(), line: "it is left over", stalled: make(chan struct{}), goOn: make(chan struct{})}
	l := lock.EnterLock(t.Name())
	c := lock.NewConfig(l, "", lock.Settings{HoldTimeout: caddy.Duration(time.Millisecond)}, events.(*caddyevents.App), zap.New(log))
	l.Activate(c)
	defer l.Exit()
	defer l.Deactivate(c)
	h := new(tcplock.Handler)
	h.Use(c, nil)

	wedged, done := make(chan struct{}), make(chan struct{})
	client, server := net.Pipe()
	defer client.Close()
	go func() {
		defer close(done)
		_ = h.Handle(layer4.WrapConnection(server, nil, zap.NewNop()), layer4.HandlerFunc(func(*layer4.Connection) error {
			<-wedged
			return nil
		}))
	}()
	select {
	case <-log.stalled:
	case <-time.After(10 * time.Second):
		t.Fatal("found no line of the left-over connection")
	}
	close(wedged)
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the connection's end waits for the log, expected it not to")
	}
	close(log.goOn)
	<-done
}
