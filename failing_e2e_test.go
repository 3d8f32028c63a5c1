//go:build unix

package tcplock_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

const noPrinter = "exec sh: exit status 1: cannot find printer"

// findsPrinter is an activate hook that fails until the file is there.
func findsPrinter(file string) string {
	return fmt.Sprintf(`on activate exec sh -c "test -e %s && exit; echo; echo '  cannot find printer' >&2; echo bye; exit 1"`, file)
}

// refused sends a client to the lock that its activate hook refuses.
func (o *operated) refused(t *testing.T) {
	t.Helper()
	expectClosed(t, dial(t, o.addr))
}

// served sends a client to the lock that reaches the service, and ends it.
func (o *operated) served(t *testing.T) {
	t.Helper()
	client := dial(t, o.addr)
	o.service.leave(o.service.next(t))
	client.Close()
	inLine(t, "printer", 0, 0)
}

// isFailing expects that so many connections were refused; 0: the lock is not failing.
func (a admin) isFailing(t *testing.T, connections uint64) *status.Failing {
	t.Helper()
	f := a.lock(t, "printer").Failing
	if found := f != nil; found != (connections > 0) || found && f.Connections != connections {
		t.Fatalf("found failing %+v, expected %d connections", f, connections)
	}
	a.measures(t, map[string]float64{"failing{lock=printer}": float64(min(connections, 1))})
	return f
}

// A lock whose activate hook refuses each connection says so everywhere: since when, how many, and the
// first line that the command printed. The next success ends that.
func TestFailingLockSaysSo(t *testing.T) {
	printer := filepath.Join(t.TempDir(), "printer")
	o := newOperated(t, findsPrinter(printer))
	o.isFailing(t, 0)

	begin := time.Now()
	o.refused(t)
	first := time.Now()
	time.Sleep(50 * time.Millisecond) // so that the two refusals can be told apart
	o.refused(t)
	f := o.isFailing(t, 2)
	if f.Error != noPrinter {
		t.Errorf("found the error %q, expected %q", f.Error, noPrinter)
	}
	const rounded = 10 * time.Millisecond // and how much the clock may be slewed
	if f.Since.Before(begin.Add(-rounded)) || f.Since.After(first.Add(rounded)) {
		t.Errorf("found failing since %s, expected since the first refusal, from %s to %s", f.Since, begin, first)
	}
	o.exits(t, 0, `(?m)^printer .* failing$`, "status")
	o.exits(t, 0, `(?m)^failing for \S+, 2 connections refused: `+regexp.QuoteMeta(noPrinter)+`$`, "status", "printer")
	for _, e := range o.lock(t, "printer").Events {
		if e.Event == "hook_failed" && e.Error != noPrinter {
			t.Errorf("found an event with the error %q, expected %q", e.Error, noPrinter)
		}
	}

	touch(t, filepath.Dir(printer), "printer")
	o.served(t)
	o.isFailing(t, 0)
	o.exits(t, 0, `(?m)^printer .* open$`, "status")
}

// A failing lock stays so through a reload that keeps the hook, and ends with the hook. When the
// hook comes back, the lock starts anew. An operator's run of the hook ends it as well.
func TestFailingLockAndReload(t *testing.T) {
	printer := filepath.Join(t.TempDir(), "printer")
	o := newOperated(t, findsPrinter(printer))
	reload := func(options string) {
		t.Helper()
		o.options = options
		load(t, o.in(o.config()))
	}
	o.refused(t)
	before := o.isFailing(t, 1)

	reload("max_waiting 7\n" + findsPrinter(printer))
	after := o.isFailing(t, 1)
	if d := after.Since.Sub(before.Since).Abs(); d > time.Second || after.Error != before.Error {
		t.Errorf("found %+v after the reload, expected %+v", after, before)
	}
	o.refused(t)
	o.isFailing(t, 2)

	reload("max_waiting 7")
	o.isFailing(t, 0)
	reload(findsPrinter(printer))
	o.isFailing(t, 0)
	o.refused(t)
	o.isFailing(t, 1)

	touch(t, filepath.Dir(printer), "printer")
	asks[map[string]any](t, o.admin, "POST", "/tcplock/locks/printer/run?moment=activate")
	o.isFailing(t, 0)
	if err := os.Remove(printer); err != nil {
		t.Fatal(err)
	}
	o.refused(t)
	o.isFailing(t, 1)
}

// A connection whose hook a reload has taken away meanwhile may still be refused by it. That does
// not make the lock failing.
func TestNotFailingByFormerHook(t *testing.T) {
	o := newOperated(t, "")
	catchingOver.Store(t.Context().Done())
	load(t, o.in(hookConfig(o.addr, 1, "name printer\non activate emit start", o.service.addr)))
	client := dial(t, o.addr)
	hook := nextHook(t)
	load(t, o.in(o.config()))
	hook.fail()
	expect(t, client, "hook_failed")
	expectClosed(t, client)
	o.isFailing(t, 0)
	o.served(t)
}

// With two slots, a hook that failed runs again for one of them, and is not due for the other
// meanwhile. That the other connection gets through is no success of the hook.
func TestFailingUntilTheHookHasRun(t *testing.T) {
	svc, addr := newService(t, echo), freeAddr(t)
	config, a := withAdmin(t, hookConfig(addr, 2, "name printer\non activate {\nevery 1000\nemit start\n}", svc.addr))
	catchingOver.Store(t.Context().Done())
	load(t, config)
	refusedBy := func() {
		t.Helper()
		client := dial(t, addr)
		nextHook(t).fail()
		expect(t, client, "hook_failed")
		expectClosed(t, client)
	}
	refusedBy()
	since := a.isFailing(t, 1).Since

	again := dial(t, addr)
	hook := nextHook(t)
	expectServed(t, addr)
	a.isFailing(t, 1)
	hook.fail()
	expect(t, again, "hook_failed")
	if d := a.isFailing(t, 2).Since.Sub(since).Abs(); d > time.Second {
		t.Errorf("found another beginning, %s later, expected the same", d)
	}

	client := dial(t, addr)
	nextHook(t).done()
	send(t, client, "hello")
	expect(t, client, "hello")
	a.isFailing(t, 0)
}

// A lock is not failing because of an optional hook, nor when an operator ends a connection whose
// hook waits to be alone.
func TestNotFailing(t *testing.T) {
	o := newOperated(t, "on activate {\noptional\nexec false\n}")
	o.served(t)
	o.isFailing(t, 0)

	catchingOver.Store(t.Context().Done())
	load(t, o.in(hookConfig(o.addr, 2, "name printer\non activate {\nexclusive\nemit start\n}", o.service.addr)))
	dial(t, o.addr)
	nextHook(t).done()
	o.service.next(t)
	kicked := dial(t, o.addr)
	eventually(t, "the hook of the second connection waits to be alone", func() bool { return o.lock(t, "printer").Exclusive })
	for _, c := range o.lock(t, "printer").Holders {
		if c.Client == kicked.LocalAddr().String() {
			o.ask(t, "POST", fmt.Sprintf("/tcplock/locks/printer/kick?id=%d", c.ID))
		}
	}
	expectClosed(t, kicked)
	eventually(t, "the hook has failed", func() bool {
		return strings.Contains(fmt.Sprint(o.lock(t, "printer").Events), "was kicked")
	})
	o.isFailing(t, 0)
}
