package relay_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Each goroutine that a connection of its own way has no longer panics: where a hook, a refuse handler or the log
// does. The client sees the end, the slot goes to the next in line, once, and the process goes on.
func TestPanicsOfDetachedConnections(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	panics := func(hook.Moment) error { panic("test") }
	for name, test := range map[string]struct {
		options string
		line    string // of the log, at which it panics
		outcome string // of the connection
	}{
		"activate hook":                     {"on activate {\ntest_call\n}", "", status.HookFailed},
		"release hook":                      {"on release {\ntest_call\n}", "", status.Served},
		"timeout hook":                      {"hold_timeout 50ms\non timeout {\ntest_call\n}", "", status.HoldTimeout},
		"refuse hook":                       {"wait_timeout 1ns\non refuse {\ntest_call\n}", "", status.WaitTimeout},
		"refuse handler after wait_timeout": {"wait_timeout 1ns\nrefuse {\ntest_break\n}", "", status.WaitTimeout},
		"refuse handler at once":            {"max_waiting 0\nrefuse {\ntest_break\n}", "", status.RefusedFull},
		"refuse handler after a hook":       {"on activate {\ntest_call\n}\nrefuse {\ntest_break\n}", "", status.HookFailed},
		"log of the end":                    {"", "connection ended", status.Served},
		"log of a refusal":                  {"wait_timeout 1ns", "connection ended", status.WaitTimeout},
		"log of a refusal at once":          {"max_waiting 0", "connection ended", status.RefusedFull},
		"log of hold_timeout":               {"hold_timeout 50ms", "hold_timeout is over", status.HoldTimeout},
		"log of a left-over connection":     {"hold_timeout 50ms", "it is left over", status.HoldTimeout},
		"log of an activate hook":           {"on activate {\nemit test\n}", "hook done", status.HookFailed},
		"log of a release hook":             {"on release {\nemit test\n}", "hook done", status.Served},
		"log of a refuse hook":              {"wait_timeout 1ns\non refuse {\nemit test\n}", "hook done", status.WaitTimeout},
		"log of a panic":                    {"wait_timeout 1ns\nrefuse {\ntest_break\n}", "handling connection", status.WaitTimeout},
	} {
		for _, detached := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, detached %t", name, detached), func(t *testing.T) {
				svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
				before := ""
				if !detached {
					before = "test_fragile\n"
				}
				caddyfile := caddytest.RouteConfig(addr, before+"tcplock {\nto "+svc.Addr+"\nlinger 0\n"+test.options+"\n}")
				caddytest.OnCall(panics)
				breakAtLine.Store(&test.line)
				defer breakAtLine.Store(new(string))
				caddyfile = strings.Replace(caddyfile, "persist_config off", "persist_config off\nlog {\nformat test_brittle_log\n}", 1)
				caddytest.Load(t, caddyfile)
				caddytest.LeakCheck(t)
				ended := uint64(0)
				for range 2 {
					first := caddytest.Dial(t, addr)
					switch test.outcome {
					case status.WaitTimeout, status.RefusedFull: // of the second
						at := svc.Next(t)
						second := caddytest.Dial(t, addr)
						caddytest.ExpectClosed(t, second)
						svc.Leave(at)
						caddytest.ExpectEOF(t, first)
					case status.HoldTimeout:
						at := svc.Next(t)
						second := caddytest.Dial(t, addr) // is next, and is cut as well
						caddytest.ExpectClosed(t, first)
						if !strings.Contains(name, "left-over") {
							svc.Leave(at)
						}
						atSecond := svc.Next(t)
						caddytest.ExpectClosed(t, second)
						svc.Leave(atSecond)
						if strings.Contains(name, "left-over") {
							svc.Leave(at)
						}
						ended++
					case status.HookFailed:
						if strings.HasPrefix(name, "log") { // which changes nothing
							svc.Leave(svc.Next(t))
						}
						caddytest.ExpectClosed(t, first)
					default:
						at := svc.Next(t)
						second := caddytest.Dial(t, addr)
						caddytest.InLine(t, "default", 1, 1)
						svc.Leave(at)
						caddytest.ExpectEOF(t, first)
						svc.Leave(svc.Next(t))
						caddytest.ExpectEOF(t, second)
						ended++
					}
					ended++
					caddytest.InLine(t, "default", 0, 0)
				}
				want := test.outcome
				if strings.HasPrefix(name, "log") && want == status.HookFailed {
					want = status.Served
				}
				if all := caddytest.Status(t, "default").Connections; all[want] != ended {
					t.Errorf("found %v, expected %d of %s", all, ended, want)
				}
			})
		}
	}
}

// breakAtLine is the line of the log at which test_brittle_log panics; "": none.
var breakAtLine atomic.Pointer[string]

// brittleLog is test_brittle_log, an encoder of the log that panics at one line.
type brittleLog struct{ zapcore.Encoder }

// breaker is test_break, a handler that panics.
type breaker struct{}

func init() {
	caddy.RegisterModule(brittleLog{})
	caddy.RegisterModule(breaker{})
	breakAtLine.Store(new(string))
}

func (brittleLog) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.encoders.test_brittle_log", New: func() caddy.Module { return new(brittleLog) }}
}

func (b *brittleLog) Provision(caddy.Context) error {
	b.Encoder = zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"})
	return nil
}

func (*brittleLog) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (b brittleLog) Clone() zapcore.Encoder { return brittleLog{b.Encoder.Clone()} }

func (b brittleLog) EncodeEntry(e zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	if line := *breakAtLine.Load(); line != "" && strings.Contains(e.Message, line) && strings.Contains(e.LoggerName, "tcplock") {
		panic("test")
	}
	return b.Encoder.EncodeEntry(e, fields)
}

func (breaker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.test_break", New: func() caddy.Module { return new(breaker) }}
}

func (breaker) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (breaker) Handle(*layer4.Connection, layer4.Handler) error {
	panic(errors.Join(io.EOF, errors.New("test")))
}
