package ending_test

import (
	"bytes"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// What a client sends after its slot has been handed on reaches no service. It is counted, to
// the byte, in the log, an event and a metric, whatever stands before tcplock. A warning says
// once what to do. The end of a TLS session does not count.
func TestDiscardedBytesAreCounted(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	for _, w := range caddytest.Ways {
		for _, late := range []string{"", "three\nlate\nlines\n"} {
			t.Run(w.Name+"/"+late, func(t *testing.T) {
				svc := caddytest.NewService(t, nil)
				addr := caddytest.FreeAddr(t)
				route := w.Matcher
				if route == "" {
					route = "route"
				}
				caddyfile, lines := caddytest.Logged(t, caddytest.Global("layer4 {\n"+addr+" {\n"+route+" {\n"+caddytest.WayOut(w.Handlers+"\ntcplock {\nlinger 200ms\n}", svc.Addr)+"\n}\n}\n}"), "")
				caddyfile, a := caddytest.WithAdmin(t, caddyfile)
				cfg := caddytest.Adapt(t, caddyfile)
				if w.Tls {
					cfg = caddytest.WithCertificate(t, cfg)
				}
				if err := caddytest.TryLoadJSON(t, cfg); err != nil {
					t.Fatal(err)
				}
				caddytest.LeakCheck(t)
				c := w.Come(t, addr, "job")
				conn := svc.Next(t)
				caddytest.Expect(t, conn, w.Passed()+"job")
				_ = conn.CloseWrite()
				caddytest.ExpectEOF(t, c)
				caddytest.InLine(t, "default", 0, 0) // after linger
				caddytest.ExpectEOF(t, conn)
				if late != "" {
					caddytest.Send(t, c, late)
				}
				c.End()
				line := lines(".access", 1)[0]
				if line["outcome"] != "served" || line["bytes_discarded"] != float64(len(late)) {
					t.Errorf("found %v, expected served, and %d bytes discarded", line, len(late))
				}
				a.Measures(t, map[string]float64{
					"discarded_bytes_total{direction=in lock=default}":  float64(len(late)),
					"discarded_bytes_total{direction=out lock=default}": 0,
				})
				events := discardedEvents(t, "default")
				var warnings []map[string]any
				for _, line := range lines("", 0) {
					if line["bytes"] != nil { // the other warnings are about the config
						warnings = append(warnings, line)
					}
				}
				if late == "" {
					if len(events)+len(warnings) > 0 {
						t.Errorf("found events %v and warnings %v, expected none", events, warnings)
					}
					return
				}
				if len(events) != 1 || events[0].Bytes != int64(len(late)) || events[0].Reason != "in" {
					t.Errorf("found events %+v, expected one of %d bytes in", events, len(late))
				}
				if len(warnings) != 1 || warnings[0]["level"] != "warn" || warnings[0]["bytes"] != float64(len(late)) {
					t.Errorf("found %v, expected one warning of %d bytes", warnings, len(late))
				}
			})
		}
	}
}

func discardedEvents(t *testing.T, lock string) (events []status.Event) {
	t.Helper()
	for _, e := range caddytest.Status(t, lock).Events {
		if e.Event == "discarded" {
			events = append(events, e)
		}
	}
	return events
}

// A client goes in the middle of the answer. What the service still sends, while tcplock reads
// on, is counted too. There is no warning.
func TestDiscardedAnswerIsCounted(t *testing.T) {
	piece := bytes.Repeat([]byte("answer "), 10_000)
	svc := caddytest.NewService(t, func(conn *net.TCPConn) {
		_, _ = io.ReadFull(conn, make([]byte, len("job")))
		for end := time.Now().Add(caddytest.Patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if _, err := conn.Write(piece); err != nil {
				return
			}
		}
	})
	addr := caddytest.FreeAddr(t)
	caddyfile, lines := caddytest.Logged(t, caddytest.LockConfig(addr, "tcplock", svc.Addr), "")
	caddytest.Load(t, caddyfile)
	caddytest.LeakCheck(t)
	c := caddytest.Dial(t, addr)
	caddytest.Send(t, c, "job")
	_, _ = io.ReadFull(c, make([]byte, len(piece)))
	_ = c.SetLinger(0)
	c.Close()
	line := lines(".access", 1)[0]
	if n, _ := line["bytes_discarded"].(float64); n == 0 {
		t.Errorf("found %v, expected some bytes discarded", line)
	}
	if events := discardedEvents(t, "default"); len(events) != 1 || events[0].Reason != "out" || float64(events[0].Bytes) != line["bytes_discarded"] {
		t.Errorf("found events %+v, expected one of as many bytes out as in %v", events, line)
	}
	if warnings := slices.DeleteFunc(lines("", 0), func(line map[string]any) bool { return line["level"] != "warn" }); len(warnings) > 0 {
		t.Errorf("found %v, expected no warning", warnings)
	}
}
