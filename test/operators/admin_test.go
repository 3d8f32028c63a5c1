package operators_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The admin API shows the holders and the waiters, their positions and times. A wrong request
// gets an error with what was found and what was expected.
func TestAdminStatus(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr, other := caddytest.FreeAddr(t), caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.Global(fmt.Sprintf(`layer4 {
		%s {
			route {
				tcplock 2 {
					name office
					max_waiting 5
				}
				proxy %s
			}
		}
		%s {
			route {
				tcplock 1 {
					name another
				}
				proxy %[2]s
			}
		}
	}`, addr, svc.Addr, other)))
	caddytest.Load(t, config)
	start := time.Now()
	clients := []string{}
	for i := range 4 {
		c := caddytest.Dial(t, addr)
		caddytest.Send(t, c, "hello")
		clients = append(clients, c.LocalAddr().String())
		caddytest.InLine(t, "office", min(i+1, 2), max(0, i-1))
	}
	caddytest.Eventually(t, "both holders are let through", func() bool {
		return !slices.ContainsFunc(a.Lock(t, "office").Holders, func(c status.Connection) bool { return c.State != "connected" })
	})
	s := a.Lock(t, "office")
	if s.Name != "office" || s.Slots != 2 || s.Held != 2 || s.Waiting != 2 || s.MaxWaiting == nil || *s.MaxWaiting != 5 || s.Paused != nil || s.LeftOver != 0 {
		t.Errorf("found %+v, expected 2 of 2 held, 2 of 5 waiting", s)
	}
	if s.OldestWaitSeconds <= 0 || s.OldestWaitSeconds > time.Since(start).Seconds() {
		t.Errorf("found oldest wait %v, expected it to be since the third came", s.OldestWaitSeconds)
	}
	all := append(s.Holders, s.Waiters...)
	for i, c := range all {
		position, slot, state := 0, i+1, "connected"
		if i >= 2 {
			position, slot, state = i-1, 0, "waiting"
		}
		if c.ID != uint64(i+1) || c.Client != clients[i] || c.Position != position || c.Slot != slot || c.State != state || c.Since.Before(start) || c.Since.After(s.Now) {
			t.Errorf("found %+v, expected the id %d of client %s, position %d, slot %d, %s", c, i+1, clients[i], position, slot, state)
		}
	}
	caddytest.Eventually(t, "the bytes of a holder are counted", func() bool { return a.Lock(t, "office").Holders[0].BytesIn == 5 })
	if s := caddytest.Asks[status.Lock](t, a, "GET", "/tcplock/locks/office?waiters=1"); len(s.Waiters) != 1 || s.Waiting != 2 || s.Waiters[0].Position != 1 {
		t.Errorf("found %d listed and %d waiting, expected the first of 2", len(s.Waiters), s.Waiting)
	}
	list := caddytest.Asks[struct{ Locks []status.Lock }](t, a, "GET", "/tcplock/locks")
	if len(list.Locks) != 2 || list.Locks[0].Name != "another" || list.Locks[1].Waiting != 2 {
		t.Errorf("found %+v, expected another and office", list.Locks)
	}

	for _, c := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/tcplock/locks/ofice", 404, `found no lock "ofice", expected one of: another, office`},
		{"GET", "/tcplock/locks/office?waiters=-1", 400, "waiters: found -1, expected 0 or more"},
		{"GET", "/tcplock/locks?waitres=1", 400, `found parameter "waitres", expected waiters`},
		{"POST", "/tcplock/locks", 405, "found method POST, expected GET"},
		{"DELETE", "/tcplock/locks/office", 405, "found method DELETE, expected GET"},
		{"GET", "/tcplock/locks/office/pause", 405, "found method GET, expected POST"},
		{"POST", "/tcplock/locks/office/puase", 404, `found "puase", expected one of drain, kick, pause, restart, resume, run`},
		{"POST", "/tcplock/locks/nobody/pause", 404, `found no lock "nobody", expected one of: another, office`},
		{"POST", "/tcplock/locks/office/pause?for=5", 400, `for: found "5" without a unit, expected a duration such as 5s`},
		{"POST", "/tcplock/locks/office/pause?for=-5s", 400, `for: found "-5s", expected more than 0`},
		{"POST", "/tcplock/locks/office/pause?for=1s&for=2s", 400, "for: found it 2 times, expected it once"},
		{"POST", "/tcplock/locks/office/resume?for=5s", 400, `found parameter "for", expected none`},
		{"POST", "/tcplock/locks/office/pause?for=5%", 400, `query: invalid URL escape "%"`},
		{"POST", "/tcplock/locks/office/pause?x;for=5m", 400, "query: invalid semicolon separator in query"},
		{"POST", "/tcplock/locks/office/kick", 400, `id: found "", expected the id of a holder or waiter`},
		{"POST", "/tcplock/locks/office/kick?id=77", 404, "no such connection holds or waits"},
		{"POST", "/tcplock/locks/office/run?moment=activate", 400, `moment: found "activate", expected one that lock office has hooks for: (there is none)`},
		{"POST", "/tcplock/locks/office/restart", 400, "lock office: found no service, expected one to restart"},
		{"POST", "/tcplock/locks/office/restart?slot=3", 400, "slot: found 3, expected one that lock office has"},
		{"POST", "/tcplock/locks/office/drain?wait=10ms", 504, "there are still other holders"},
	} {
		a.Refuses(t, c.method, c.path, c.status, c.want)
	}
	caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/office/resume") // the drain has paused it
	if resp, _ := a.Ask(t, "PUT", "/tcplock/locks/office/pause"); resp.Header.Get("Allow") != "POST" {
		t.Errorf("found Allow %q, expected POST", resp.Header.Get("Allow"))
	}
	if resp, _ := a.Ask(t, "HEAD", "/tcplock/locks/office"); resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("found status %d and %q for HEAD, expected 200 and JSON", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
}

// A paused lock admits no connection, and a connection that finds the line full is refused with
// this reason. A pause survives a reload and shows. Waiters keep their places, and go on in
// order.
func TestAdminPause(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.FreeAddr(t)
	route := "tcplock {\nmax_waiting 2\nrefuse {\ntest_tell_reason\n}\n}"
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, route, svc.Addr))
	caddytest.Load(t, config)
	s := caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/default/pause")
	if s.Paused == nil || s.Paused.Until != nil {
		t.Errorf("found pause %+v, expected one without an end", s.Paused)
	}
	first := caddytest.Dial(t, addr)
	caddytest.Send(t, first, "one")
	caddytest.InLine(t, "default", 0, 1)
	second := caddytest.Dial(t, addr)
	caddytest.Send(t, second, "two")
	caddytest.InLine(t, "default", 0, 2)
	third := caddytest.Dial(t, addr)
	caddytest.Expect(t, third, "refused_paused")
	if _, _, total := svc.Counts(); total != 0 {
		t.Errorf("found %d at the service, expected none in a pause", total)
	}

	caddytest.Load(t, a.In(caddytest.LockConfig(addr, "tcplock {\nmax_waiting 3\n}", svc.Addr)))
	if s := a.Lock(t, "default"); s.Paused == nil || s.Waiting != 2 || s.Connections["refused_paused"] != 1 {
		t.Errorf("found %+v, expected a pause, 2 waiting and 1 refused_paused after the reload", s)
	}
	if s := caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/default/resume"); s.Paused != nil {
		t.Errorf("found pause %+v, expected none", s.Paused)
	}
	caddytest.Expect(t, first, "one")
	caddytest.InLine(t, "default", 1, 1)
	first.Close()
	caddytest.Expect(t, second, "two")
}

// A request to drain may take longer than the admin server's read timeout. It answers when the
// last holder has ended.
func TestAdminDrain(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, "tcplock", svc.Addr))
	caddytest.Load(t, config)
	holder := caddytest.Dial(t, addr)
	caddytest.Send(t, holder, "one")
	caddytest.Expect(t, holder, "one")
	const readTimeout = 10 * time.Second // of Caddy's admin server
	time.AfterFunc(readTimeout+time.Second, func() { holder.Close() })
	if s := caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/default/drain?wait=1m"); s.Held != 0 || s.Paused == nil {
		t.Errorf("found %d held and pause %+v, expected no holder, and a pause", s.Held, s.Paused)
	}
}

// A kicked holder is cut. Its slot is handed on even if the service does not close, and the
// connection shows as left over until it has ended.
func TestAdminKick(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svc := caddytest.NewService(t, nil)
	addr := caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, "tcplock", svc.Addr))
	caddytest.Load(t, config)
	caddytest.LeakCheck(t)
	clients := make([]io.ReadWriteCloser, 3)
	for i := range clients {
		c := caddytest.Dial(t, addr)
		caddytest.Send(t, c, fmt.Sprint(i))
		clients[i] = c
		caddytest.InLine(t, "default", 1, i)
	}
	wedged := svc.Next(t)
	caddytest.Expect(t, wedged, "0")
	caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/default/kick?id=2")
	caddytest.InLine(t, "default", 1, 1)
	caddytest.Asks[status.Lock](t, a, "POST", "/tcplock/locks/default/kick?id=1")
	next := svc.Next(t)
	caddytest.Expect(t, next, "2")
	for _, i := range []int{0, 1} {
		if n, err := clients[i].Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("client %d read %d bytes and %v, expected the end of the connection", i, n, err)
		}
	}
	caddytest.Eventually(t, "one is left over, and two were kicked", func() bool {
		s := a.Lock(t, "default")
		return s.LeftOver == 1 && s.Connections["kicked"] == 2
	})
	wedged.Close()
	caddytest.Eventually(t, "nothing is left over", func() bool { return a.Lock(t, "default").LeftOver == 0 })
	next.Close()
	caddytest.InLine(t, "default", 0, 0)
}

// A connection is kicked on its way back into line, because its worker is down. Its outcome is
// kicked, not client_gone.
func TestAdminKickBetweenWorkers(t *testing.T) {
	dead := caddytest.FreeAddr(t)
	addr := caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, "tcplock {\nworkers "+dead+"\non release test_call\n}", "{l4.tcplock.worker}"))
	kick := func(m hook.Moment) error {
		caddytest.Asks[status.Lock](t, a, "POST", fmt.Sprintf("/tcplock/locks/default/kick?id=%d", m.Connection))
		return nil
	}
	caddytest.OnCall(kick)
	caddytest.Load(t, config)
	c := caddytest.Dial(t, addr)
	caddytest.Send(t, c, "hello")
	caddytest.ExpectClosed(t, c)
	caddytest.InLine(t, "default", 0, 0)
	caddytest.Eventually(t, "its end is counted", func() bool { return a.Lock(t, "default").Connections["kicked"] == 1 })
}

// A request to run hooks is given up while it still waits for the holders. The line goes on,
// whatever the request's body is.
func TestAdminRunGivenUp(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, "tcplock 2 {\non release exec true\n}", svc.Addr))
	caddytest.Load(t, config)
	caddytest.LeakCheck(t)
	holder := caddytest.Dial(t, addr)
	caddytest.Send(t, holder, "one")
	caddytest.Expect(t, holder, "one")
	ctx, giveUp := context.WithCancel(t.Context())
	var run sync.WaitGroup
	defer run.Wait()
	defer giveUp()
	run.Go(func() {
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+a.Addr+"/tcplock/locks/default/run?moment=release", strings.NewReader("{}"))
		req.Close = true
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	})
	caddytest.Eventually(t, "the run waits", func() bool { return a.Lock(t, "default").Exclusive })
	second := caddytest.Dial(t, addr)
	caddytest.Send(t, second, "two")
	caddytest.InLine(t, "default", 1, 1)
	giveUp()
	caddytest.Expect(t, second, "two")
}

// After a reload that has removed workers, the others keep the numbers of their slots, by which
// an operator names them. A removed worker keeps its slot as long as it has its holder.
func TestAdminSlotsAfterReload(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	svcs := []*caddytest.Service{caddytest.NewService(t, nil), caddytest.NewService(t, nil), caddytest.NewService(t, nil)}
	addr := caddytest.FreeAddr(t)
	config := func(workers ...*caddytest.Service) string {
		route := "tcplock {\non release test_call\nworkers"
		for _, w := range workers {
			route += " " + w.Addr
		}
		return caddytest.LockConfig(addr, route+"\n}", "{l4.tcplock.worker}")
	}
	var ran []string
	call := func(m hook.Moment) error {
		if m.Connection == 0 {
			ran = append(ran, fmt.Sprintf("%d %s", m.Slot, m.Worker))
		}
		return nil
	}
	caddytest.OnCall(call)
	first, a := caddytest.WithAdmin(t, config(svcs...))
	caddytest.Load(t, first)
	client := caddytest.Dial(t, addr)
	caddytest.Send(t, client, "one")
	holder := svcs[0].Next(t)
	workers := func() (states string) {
		for _, w := range a.Lock(t, "default").Workers {
			states += fmt.Sprintf("%d %s, ", w.Slot, w.State)
		}
		return states
	}
	caddytest.Load(t, a.In(config(svcs[2])))
	if got := workers(); got != "1 removed, 3 up, " {
		t.Errorf("found workers %s, expected the one with the holder and the third", got)
	}
	svcs[0].Leave(holder)
	caddytest.InLine(t, "default", 0, 0)
	if got := workers(); got != "3 up, " {
		t.Errorf("found workers %s, expected the third", got)
	}
	for _, path := range []string{"moment=release", "moment=release&slot=3"} {
		if got := caddytest.Asks[struct{ Hooks int }](t, a, "POST", "/tcplock/locks/default/run?"+path); got.Hooks != 1 {
			t.Errorf("%s: found %d hooks, expected 1", path, got.Hooks)
		}
	}
	third := "3 " + svcs[2].Addr
	if got := strings.Join(ran, ", "); got != third+", "+third {
		t.Errorf("found hooks for %s, expected them for %s", got, third)
	}
	a.Refuses(t, "POST", "/tcplock/locks/default/run?moment=release&slot=2", 400, "slot: found 2, expected one that lock default has")
}

// Each answer has the pid of its process: the list, a lock, and the answers of verbs.
func TestAnswersHavePID(t *testing.T) {
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(caddytest.FreeAddr(t), "tcplock {\non release test_call\n}", caddytest.NewService(t, caddytest.Echo).Addr))
	call := func(hook.Moment) error { return nil }
	caddytest.OnCall(call)
	caddytest.Load(t, config)
	for path, method := range map[string]string{"": "GET", "/default": "GET", "/default/pause": "POST", "/default/run?moment=release": "POST"} {
		answer := caddytest.Asks[struct {
			PID   int
			Locks []status.Lock
		}](t, a, method, "/tcplock/locks"+path)
		if answer.PID != os.Getpid() {
			t.Errorf("%s %q: found pid %d, expected %d", method, path, answer.PID, os.Getpid())
		}
		if path == "" && answer.Locks[0].PID != os.Getpid() {
			t.Errorf("in the list: found pid %d, expected %d", answer.Locks[0].PID, os.Getpid())
		}
	}
}
