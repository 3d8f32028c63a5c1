package relay_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// cpu returns how much processor time the process has taken.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A client sends and sends after its service has closed. The next client does not wait for it.
func TestFormerClientThatFloods(t *testing.T) {
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	caddytest.Load(t, config(addr, 1, "", svc.Addr))
	former := caddytest.Dial(t, addr)
	atFormer := svc.Next(t)
	next := caddytest.Dial(t, addr)
	caddytest.InLine(t, "default", 1, 1)
	const flood = 8 * time.Second
	_ = former.SetDeadline(time.Now().Add(flood))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for b := make([]byte, 1<<20); ; {
			if _, err := former.Write(b); err != nil {
				return
			}
		}
	}()
	caddytest.Eventually(t, "the flood runs", func() bool {
		holders := caddytest.Status(t, "default").Holders
		return len(holders) == 1 && holders[0].BytesIn > 1<<20
	})
	svc.Leave(atFormer)
	began := time.Now()
	atNext := svc.Next(t)
	caddytest.Send(t, atNext, "hello")
	caddytest.Expect(t, next, "hello")
	if took := time.Since(began); took > flood/2 {
		t.Errorf("found an answer after %s, expected it before the flood ends", took)
	}
	former.Close()
	<-ended
	svc.Leave(atNext)
}

// A client on a unix socket sends its job and closes while it waits. It is kept, and costs no processor time.
func TestUnixClientThatHasClosed(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, nil)
	addr := caddytest.Socket(t)
	caddytest.Load(t, caddytest.Global(fmt.Sprintf("layer4 {\nunix/%s {\nroute {\ntcplock {\nto %s\nlinger 0\n}\n}\n}\n}", addr, svc.Addr)))
	first := comeByUnix(t, addr)
	at := svc.Next(t)
	second, err := net.Dial("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = second.Write([]byte("job"))
	caddytest.InLine(t, "default", 1, 1)
	before := cpu()
	time.Sleep(time.Second)
	idle := cpu() - before
	second.Close()
	before = cpu()
	time.Sleep(time.Second)
	busy := cpu() - before
	if busy > idle+300*time.Millisecond {
		t.Errorf("found %s of processor time in a second, expected about %s, as before the client had closed", busy, idle)
	}
	svc.Leave(at)
	first.Close()
	svc.Leave(svc.Next(t))
}

// stallAt, if not nil, is what test_stall_log waits for before it writes the line of a connection.
var stallAt atomic.Pointer[chan struct{}]

type stallLog struct{ zapcore.Encoder }

func init() { caddy.RegisterModule(stallLog{}) }

func (stallLog) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.encoders.test_stall_log", New: func() caddy.Module { return new(stallLog) }}
}
func (b *stallLog) Provision(caddy.Context) error {
	b.Encoder = zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"})
	return nil
}
func (*stallLog) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }
func (b stallLog) Clone() zapcore.Encoder                         { return stallLog{b.Encoder.Clone()} }
func (b stallLog) EncodeEntry(e zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	if c := stallAt.Load(); c != nil && strings.Contains(e.Message, "connection ended") {
		<-*c
	}
	return b.Encoder.EncodeEntry(e, fields)
}

// The log stands still when a client has been served. The next client gets its answer all the same.
func TestLogStallsAtEnd(t *testing.T) {
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	goOn := make(chan struct{})
	stallAt.Store(&goOn)
	defer stallAt.Store(nil)
	defer sync.OnceFunc(func() { close(goOn) })()
	cfg := caddytest.RouteConfig(addr, "tcplock {\nto "+svc.Addr+"\nlinger 0\n}")
	caddytest.Load(t, strings.Replace(cfg, "persist_config off", "persist_config off\nlog {\nformat test_stall_log\n}", 1))
	former := caddytest.Dial(t, addr)
	atFormer := svc.Next(t)
	next := caddytest.Dial(t, addr)
	caddytest.InLine(t, "default", 1, 1)
	_ = former.CloseWrite() // so that nothing has to be awaited from it
	caddytest.ExpectEOF(t, atFormer)
	svc.Leave(atFormer)
	atNext := svc.Next(t)
	caddytest.Send(t, atNext, "hello")
	caddytest.Expect(t, next, "hello")
	svc.Leave(atNext)
	next.Close()
	caddytest.InLine(t, "default", 0, 0)
}
