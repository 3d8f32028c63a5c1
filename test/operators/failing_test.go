//go:build unix

package operators_test

import (
	"fmt"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

const noPrinter = "exec sh: exit status 1: cannot find printer"

// findsPrinter is an activate hook that fails until the file is there.
func findsPrinter(file string) string {
	return fmt.Sprintf(`on activate exec sh -c "test -e %s && exit; echo; echo '  cannot find printer' >&2; echo bye; exit 1"`, file)
}

// refused sends a client to the lock, whose activate hook refuses it.
func (o *operated) refused(t *testing.T) {
	t.Helper()
	caddytest.ExpectClosed(t, caddytest.Dial(t, o.addr))
}

// served sends a client to the lock. It reaches the service, and ends.
func (o *operated) served(t *testing.T) {
	t.Helper()
	client := caddytest.Dial(t, o.addr)
	o.service.Leave(o.service.Next(t))
	client.Close()
	caddytest.InLine(t, "printer", 0, 0)
}

// A lock whose activate hook refuses each connection says so everywhere: since when, how many,
// and the first line that the command printed. The next success ends this.
func TestFailingLockSaysSo(t *testing.T) {
	printer := filepath.Join(t.TempDir(), "printer")
	o := newOperated(t, findsPrinter(printer))
	isFailing(t, o.Admin, 0)

	begin := time.Now()
	o.refused(t)
	first := time.Now()
	time.Sleep(50 * time.Millisecond) // so that the times of the two refusals differ
	o.refused(t)
	f := isFailing(t, o.Admin, 2)
	if f.Error != noPrinter {
		t.Errorf("found the error %q, expected %q", f.Error, noPrinter)
	}
	const rounded = 10 * time.Millisecond // also allows for a clock that is being adjusted
	if f.Since.Before(begin.Add(-rounded)) || f.Since.After(first.Add(rounded)) {
		t.Errorf("found failing since %s, expected since the first refusal, from %s to %s", f.Since, begin, first)
	}
	o.Exits(t, 0, `(?m)^printer .* failing$`, "status")
	o.Exits(t, 0, `(?m)^failing for \S+, 2 connections refused: `+regexp.QuoteMeta(noPrinter)+`$`, "status", "printer")
	for _, e := range o.Lock(t, "printer").Events {
		if e.Event == "hook_failed" && e.Error != noPrinter {
			t.Errorf("found an event with the error %q, expected %q", e.Error, noPrinter)
		}
	}

	caddytest.Touch(t, filepath.Dir(printer), "printer")
	o.served(t)
	isFailing(t, o.Admin, 0)
	o.Exits(t, 0, `(?m)^printer .* open$`, "status")
}

// A failing lock stays failing through a reload that keeps the hook. A reload without the
// hook ends that, also if the hook comes back later. A successful run of the hook by an operator
// ends it too.
func TestFailingLockAndReload(t *testing.T) {
	printer := filepath.Join(t.TempDir(), "printer")
	o := newOperated(t, findsPrinter(printer))
	reload := func(options string) {
		t.Helper()
		o.options = options
		caddytest.Load(t, o.In(o.config()))
	}
	o.refused(t)
	before := isFailing(t, o.Admin, 1)

	reload("max_waiting 7\n" + findsPrinter(printer))
	after := isFailing(t, o.Admin, 1)
	if d := after.Since.Sub(before.Since).Abs(); d > time.Second || after.Error != before.Error {
		t.Errorf("found %+v after the reload, expected %+v", after, before)
	}
	o.refused(t)
	isFailing(t, o.Admin, 2)

	reload("max_waiting 7")
	isFailing(t, o.Admin, 0)
	reload(findsPrinter(printer))
	isFailing(t, o.Admin, 0)
	o.refused(t)
	isFailing(t, o.Admin, 1)

	caddytest.Touch(t, filepath.Dir(printer), "printer")
	caddytest.Asks[map[string]any](t, o.Admin, "POST", "/tcplock/locks/printer/run?moment=activate")
	isFailing(t, o.Admin, 0)
	if err := os.Remove(printer); err != nil {
		t.Fatal(err)
	}
	o.refused(t)
	isFailing(t, o.Admin, 1)
}

// A connection may be refused by a hook that a reload has removed meanwhile. That does not make
// the lock failing.
func TestNotFailingByFormerHook(t *testing.T) {
	o := newOperated(t, "")
	caddytest.Catch(t)
	caddytest.Load(t, o.In(caddytest.HookConfig(o.addr, 1, "name printer\non activate emit start", o.service.Addr)))
	client := caddytest.Dial(t, o.addr)
	hook := caddytest.NextHook(t)
	caddytest.Load(t, o.In(o.config()))
	hook.Fail()
	caddytest.Expect(t, client, "hook_failed")
	caddytest.ExpectClosed(t, client)
	isFailing(t, o.Admin, 0)
	o.served(t)
}

// With two slots, a failed hook runs again for one of them, and is not due for the other
// meanwhile. That the other connection gets through is no success of the hook.
func TestFailingUntilTheHookHasRun(t *testing.T) {
	svc, addr := caddytest.NewService(t, caddytest.Echo), caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.HookConfig(addr, 2, "name printer\non activate {\nevery 1000\nemit start\n}", svc.Addr))
	caddytest.Catch(t)
	caddytest.Load(t, config)
	refusedBy := func() {
		t.Helper()
		client := caddytest.Dial(t, addr)
		caddytest.NextHook(t).Fail()
		caddytest.Expect(t, client, "hook_failed")
		caddytest.ExpectClosed(t, client)
	}
	refusedBy()
	since := isFailing(t, a, 1).Since

	again := caddytest.Dial(t, addr)
	hook := caddytest.NextHook(t)
	caddytest.ExpectServed(t, addr)
	isFailing(t, a, 1)
	hook.Fail()
	caddytest.Expect(t, again, "hook_failed")
	if d := isFailing(t, a, 2).Since.Sub(since).Abs(); d > time.Second {
		t.Errorf("found another beginning, %s later, expected the same", d)
	}

	client := caddytest.Dial(t, addr)
	caddytest.NextHook(t).Done()
	caddytest.Send(t, client, "hello")
	caddytest.Expect(t, client, "hello")
	isFailing(t, a, 0)
}

// An optional hook does not make a lock failing. Nor does a kick of a connection
// while its hook waits to be alone.
func TestNotFailing(t *testing.T) {
	o := newOperated(t, "on activate {\noptional\nexec false\n}")
	o.served(t)
	isFailing(t, o.Admin, 0)

	caddytest.Catch(t)
	caddytest.Load(t, o.In(caddytest.HookConfig(o.addr, 2, "name printer\non activate {\nexclusive\nemit start\n}", o.service.Addr)))
	caddytest.Dial(t, o.addr)
	caddytest.NextHook(t).Done()
	o.service.Next(t)
	kicked := caddytest.Dial(t, o.addr)
	caddytest.Eventually(t, "the hook of the second connection waits to be alone", func() bool { return o.Lock(t, "printer").Exclusive })
	for _, c := range o.Lock(t, "printer").Holders {
		if c.Client == kicked.LocalAddr().String() {
			o.Ask(t, "POST", fmt.Sprintf("/tcplock/locks/printer/kick?id=%d", c.ID))
		}
	}
	caddytest.ExpectClosed(t, kicked)
	caddytest.Eventually(t, "the hook has failed", func() bool {
		return strings.Contains(fmt.Sprint(o.Lock(t, "printer").Events), "was kicked")
	})
	isFailing(t, o.Admin, 0)
}

// isFailing makes sure that so many connections were refused; 0: that the lock is not failing.
func isFailing(t *testing.T, a caddytest.Admin, connections uint64) *status.Failing {
	t.Helper()
	f := a.Lock(t, "printer").Failing
	if found := f != nil; found != (connections > 0) || found && f.Connections != connections {
		t.Fatalf("found failing %+v, expected %d connections", f, connections)
	}
	a.Measures(t, map[string]float64{"failing{lock=printer}": float64(min(connections, 1))})
	return f
}
