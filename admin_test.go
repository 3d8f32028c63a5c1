package tcplock_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// admin is a Caddy's admin API.
type admin struct{ addr string }

// withAdmin turns on the admin API in a Caddyfile that global has made.
func withAdmin(t *testing.T, caddyfile string) (string, admin) {
	t.Helper()
	a := admin{freeAddr(t)}
	return a.in(caddyfile), a
}

func (a admin) in(caddyfile string) string {
	return strings.Replace(caddyfile, "admin off", "admin "+a.addr, 1)
}

// ask sends a request and returns the answer and its body. Just after a reload a request may
// meet the listener of the old config, which resets it.
func (a admin) ask(t *testing.T, method, path string) (resp *http.Response, body string) {
	t.Helper()
	eventually(t, "the admin API answers "+path, func() bool {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+a.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Close = true
		if resp, err = http.DefaultClient.Do(req); err != nil {
			return false
		}
		defer resp.Body.Close()
		all, err := io.ReadAll(resp.Body)
		body = string(all)
		return err == nil
	})
	return resp, body
}

// asks is ask for an answer that is to be 200, decoded.
func asks[T any](t *testing.T, a admin, method, path string) (value T) {
	t.Helper()
	resp, body := a.ask(t, method, path)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: found status %d: %s", method, path, resp.StatusCode, body)
	}
	if err := json.Unmarshal([]byte(body), &value); err != nil {
		t.Fatalf("%s %s: %v: %s", method, path, err, body)
	}
	return value
}

func (a admin) lock(t *testing.T, name string) status.Lock {
	t.Helper()
	return asks[status.Lock](t, a, "GET", "/tcplock/locks/"+name)
}

// refuses asks for what is to be refused, in Caddy's form.
func (a admin) refuses(t *testing.T, method, path string, status int, want string) {
	t.Helper()
	resp, body := a.ask(t, method, path)
	var answer struct{ Error string }
	if err := json.Unmarshal([]byte(body), &answer); err != nil || resp.StatusCode != status || answer.Error != want {
		t.Errorf("%s %s: found status %d and %s, expected %d and %q", method, path, resp.StatusCode, body, status, want)
	}
}

// The admin API tells who holds, who waits, at which position and since when; and what a
// wrong request has found and should have.
func TestAdminStatus(t *testing.T) {
	svc := newService(t, echo)
	addr, other := freeAddr(t), freeAddr(t)
	config, a := withAdmin(t, global(fmt.Sprintf(`layer4 {
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
	}`, addr, svc.addr, other)))
	load(t, config)
	start := time.Now()
	clients := []string{}
	for i := range 4 {
		c := dial(t, addr)
		send(t, c, "hello")
		clients = append(clients, c.LocalAddr().String())
		inLine(t, "office", min(i+1, 2), max(0, i-1))
	}
	eventually(t, "both holders are let through", func() bool {
		return !slices.ContainsFunc(a.lock(t, "office").Holders, func(c status.Connection) bool { return c.State != "connected" })
	})
	s := a.lock(t, "office")
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
	eventually(t, "the bytes of a holder are counted", func() bool { return a.lock(t, "office").Holders[0].BytesIn == 5 })
	if s := asks[status.Lock](t, a, "GET", "/tcplock/locks/office?waiters=1"); len(s.Waiters) != 1 || s.Waiting != 2 || s.Waiters[0].Position != 1 {
		t.Errorf("found %d listed and %d waiting, expected the first of 2", len(s.Waiters), s.Waiting)
	}
	list := asks[struct{ Locks []status.Lock }](t, a, "GET", "/tcplock/locks")
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
		a.refuses(t, c.method, c.path, c.status, c.want)
	}
	asks[status.Lock](t, a, "POST", "/tcplock/locks/office/resume") // the drain has paused it
	if resp, _ := a.ask(t, "PUT", "/tcplock/locks/office/pause"); resp.Header.Get("Allow") != "POST" {
		t.Errorf("found Allow %q, expected POST", resp.Header.Get("Allow"))
	}
	if resp, _ := a.ask(t, "HEAD", "/tcplock/locks/office"); resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("found status %d and %q for HEAD, expected 200 and JSON", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
}

// Paused, nobody is admitted, and who finds the line full is told so; a pause survives a
// reload and shows. Waiters keep their places, and go on in order.
func TestAdminPause(t *testing.T) {
	svc := newService(t, echo)
	addr := freeAddr(t)
	route := "tcplock {\nmax_waiting 2\nrefuse {\ntest_tell_reason\n}\n}"
	config, a := withAdmin(t, lockConfig(addr, route, svc.addr))
	load(t, config)
	s := asks[status.Lock](t, a, "POST", "/tcplock/locks/default/pause")
	if s.Paused == nil || s.Paused.Until != nil {
		t.Errorf("found pause %+v, expected one without an end", s.Paused)
	}
	first := dial(t, addr)
	send(t, first, "one")
	inLine(t, "default", 0, 1)
	second := dial(t, addr)
	send(t, second, "two")
	inLine(t, "default", 0, 2)
	third := dial(t, addr)
	expect(t, third, "refused_paused")
	if _, _, total := svc.counts(); total != 0 {
		t.Errorf("found %d at the service, expected nobody in a pause", total)
	}

	load(t, a.in(lockConfig(addr, "tcplock {\nmax_waiting 3\n}", svc.addr)))
	if s := a.lock(t, "default"); s.Paused == nil || s.Waiting != 2 || s.Connections["refused_paused"] != 1 {
		t.Errorf("found %+v, expected a pause, 2 waiting and 1 refused_paused after the reload", s)
	}
	if s := asks[status.Lock](t, a, "POST", "/tcplock/locks/default/resume"); s.Paused != nil {
		t.Errorf("found pause %+v, expected none", s.Paused)
	}
	expect(t, first, "one")
	inLine(t, "default", 1, 1)
	first.Close()
	expect(t, second, "two")
}

// A drain's request may take longer than the admin server's read timeout, and answers when
// the last holder is gone.
func TestAdminDrain(t *testing.T) {
	svc := newService(t, echo)
	addr := freeAddr(t)
	config, a := withAdmin(t, lockConfig(addr, "tcplock", svc.addr))
	load(t, config)
	holder := dial(t, addr)
	send(t, holder, "one")
	expect(t, holder, "one")
	const readTimeout = 10 * time.Second // of Caddy's admin server
	time.AfterFunc(readTimeout+time.Second, func() { holder.Close() })
	if s := asks[status.Lock](t, a, "POST", "/tcplock/locks/default/drain?wait=1m"); s.Held != 0 || s.Paused == nil {
		t.Errorf("found %d held and pause %+v, expected nobody, and a pause", s.Held, s.Paused)
	}
}

// Who is kicked is cut. The slot of one whose service does not let go of it is handed on
// all the same, and what is left over shows until it has ended.
func TestAdminKick(t *testing.T) {
	svc := newService(t, nil)
	addr := freeAddr(t)
	config, a := withAdmin(t, lockConfig(addr, "tcplock", svc.addr))
	load(t, config)
	leakCheck(t)
	clients := make([]io.ReadWriteCloser, 3)
	for i := range clients {
		c := dial(t, addr)
		send(t, c, fmt.Sprint(i))
		clients[i] = c
		inLine(t, "default", 1, i)
	}
	wedged := svc.next(t)
	expect(t, wedged, "0")
	asks[status.Lock](t, a, "POST", "/tcplock/locks/default/kick?id=2")
	inLine(t, "default", 1, 1)
	asks[status.Lock](t, a, "POST", "/tcplock/locks/default/kick?id=1")
	next := svc.next(t)
	expect(t, next, "2")
	for _, i := range []int{0, 1} {
		if n, err := clients[i].Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("client %d read %d bytes and %v, expected the end of the connection", i, n, err)
		}
	}
	eventually(t, "one is left over, and two were kicked", func() bool {
		s := a.lock(t, "default")
		return s.LeftOver == 1 && s.Connections["kicked"] == 2
	})
	wedged.Close()
	eventually(t, "nothing is left over", func() bool { return a.lock(t, "default").LeftOver == 0 })
	next.Close()
	inLine(t, "default", 0, 0)
}

// What docs/admin.md shows works as it stands there, in that order: each curl command
// is run against a lock that is as the page says, and no field of its example is unknown
// or missing.
func TestAdminDoc(t *testing.T) {
	findProgram(t, "curl")
	doc, err := os.ReadFile("docs/admin.md")
	if err != nil {
		t.Fatal(err)
	}
	svc := newService(t, echo)
	addr := freeAddr(t)
	config, a := withAdmin(t, lockConfig(addr, `tcplock {
		name soffice
		service sleep 1000 {
			ready exec true
		}
		on release exec true
	}`, svc.addr))
	load(t, config)
	eventually(t, "the service is ready", func() bool { return a.lock(t, "soffice").Workers[0].State == "up" })
	for range 20 { // so that the ids are those of the page
		c := dial(t, addr)
		c.Close()
	}
	inLine(t, "soffice", 0, 0)
	eventually(t, "20 have gone", func() bool {
		s := a.lock(t, "soffice")
		return s.Connections["served"]+s.Connections["client_gone"] == 20
	})
	holder := dial(t, addr)
	send(t, holder, "hello")
	expect(t, holder, "hello")
	send(t, dial(t, addr), "hello")
	inLine(t, "soffice", 1, 1)

	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(doc, -1)
	for i, block := range blocks {
		for line := range strings.Lines(string(block[1])) {
			command := strings.ReplaceAll(strings.TrimSpace(line), "localhost:2019", a.addr)
			if strings.Contains(command, "run?") { // the holder would stay for good
				holder.Close()
			}
			out, err := exec.Command("sh", "-c", command+" -w '%{http_code}'").CombinedOutput()
			want := "200"
			if strings.Contains(command, "wait=1s") { // the holder is still there
				want = "504"
			}
			if err != nil || !strings.HasSuffix(string(out), want) {
				t.Errorf("block %d: %s: error %v, found %s, expected status %s", i+1, command, err, out, want)
			}
		}
	}
	if len(blocks) < 6 {
		t.Errorf("found %d blocks of commands, expected one for each verb", len(blocks))
	}
	var example map[string]any
	block := regexp.MustCompile("(?s)```json\n(.*?)```").FindSubmatch(doc)
	if err := json.Unmarshal(block[1], &example); err != nil {
		t.Fatal(err)
	}
	_, body := a.ask(t, "GET", "/tcplock/locks/soffice")
	var found map[string]any
	if err := json.Unmarshal([]byte(body), &found); err != nil {
		t.Fatal(err)
	}
	for field := range found {
		if !strings.Contains(string(doc), "`"+field+"`") && example[field] == nil {
			t.Errorf("found field %q, expected docs/admin.md to name it", field)
		}
	}
	for field := range example {
		if field != "paused" && found[field] == nil {
			t.Errorf("docs/admin.md names the field %q, which is not there", field)
		}
	}
}

// Who is kicked on its way back into line, because its worker is down, is out: its end is
// the kick's, not that it has left.
func TestAdminKickBetweenWorkers(t *testing.T) {
	dead := freeAddr(t)
	addr := freeAddr(t)
	config, a := withAdmin(t, lockConfig(addr, "tcplock {\nworkers "+dead+"\non release test_call\n}", "{l4.tcplock.worker}"))
	kick := func(m tcplock.Moment) error {
		asks[status.Lock](t, a, "POST", fmt.Sprintf("/tcplock/locks/default/kick?id=%d", m.Connection))
		return nil
	}
	called.Store(&kick)
	load(t, config)
	c := dial(t, addr)
	send(t, c, "hello")
	expectClosed(t, c)
	inLine(t, "default", 0, 0)
	eventually(t, "its end is counted", func() bool { return a.lock(t, "default").Connections["kicked"] == 1 })
}

// An operator who gives up a run that still waits for the holders does not hold up the line,
// whatever the request's body.
func TestAdminRunGivenUp(t *testing.T) {
	svc := newService(t, echo)
	addr := freeAddr(t)
	config, a := withAdmin(t, lockConfig(addr, "tcplock 2 {\non release exec true\n}", svc.addr))
	load(t, config)
	leakCheck(t)
	holder := dial(t, addr)
	send(t, holder, "one")
	expect(t, holder, "one")
	ctx, giveUp := context.WithCancel(t.Context())
	var run sync.WaitGroup
	defer run.Wait()
	defer giveUp()
	run.Go(func() {
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+a.addr+"/tcplock/locks/default/run?moment=release", strings.NewReader("{}"))
		req.Close = true
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	})
	eventually(t, "the run waits", func() bool { return a.lock(t, "default").Exclusive })
	second := dial(t, addr)
	send(t, second, "two")
	inLine(t, "default", 1, 1)
	giveUp()
	expect(t, second, "two")
}

// After a reload that has removed workers the others have the slots that they had, which is
// how an operator names them; one that is removed is there as long as it has its holder.
func TestAdminSlotsAfterReload(t *testing.T) {
	svcs := []*service{newService(t, nil), newService(t, nil), newService(t, nil)}
	addr := freeAddr(t)
	config := func(workers ...*service) string {
		route := "tcplock {\non release test_call\nworkers"
		for _, w := range workers {
			route += " " + w.addr
		}
		return lockConfig(addr, route+"\n}", "{l4.tcplock.worker}")
	}
	var ran []string
	call := func(m tcplock.Moment) error {
		if m.Connection == 0 {
			ran = append(ran, fmt.Sprintf("%d %s", m.Slot, m.Worker))
		}
		return nil
	}
	called.Store(&call)
	first, a := withAdmin(t, config(svcs...))
	load(t, first)
	client := dial(t, addr)
	send(t, client, "one")
	holder := svcs[0].next(t)
	workers := func() (states string) {
		for _, w := range a.lock(t, "default").Workers {
			states += fmt.Sprintf("%d %s, ", w.Slot, w.State)
		}
		return states
	}
	load(t, a.in(config(svcs[2])))
	if got := workers(); got != "1 removed, 3 up, " {
		t.Errorf("found workers %s, expected the one with the holder and the third", got)
	}
	svcs[0].leave(holder)
	inLine(t, "default", 0, 0)
	if got := workers(); got != "3 up, " {
		t.Errorf("found workers %s, expected the third", got)
	}
	for _, path := range []string{"moment=release", "moment=release&slot=3"} {
		if got := asks[struct{ Hooks int }](t, a, "POST", "/tcplock/locks/default/run?"+path); got.Hooks != 1 {
			t.Errorf("%s: found %d hooks, expected 1", path, got.Hooks)
		}
	}
	third := "3 " + svcs[2].addr
	if got := strings.Join(ran, ", "); got != third+", "+third {
		t.Errorf("found hooks for %s, expected them for %s", got, third)
	}
	a.refuses(t, "POST", "/tcplock/locks/default/run?moment=release&slot=2", 400, "slot: found 2, expected one that lock default has")
}

// Each answer says which process it is from: the list, a lock, and what the verbs answer.
func TestAnswersHavePID(t *testing.T) {
	config, a := withAdmin(t, lockConfig(freeAddr(t), "tcplock {\non release test_call\n}", newService(t, echo).addr))
	call := func(tcplock.Moment) error { return nil }
	called.Store(&call)
	load(t, config)
	for path, method := range map[string]string{"": "GET", "/default": "GET", "/default/pause": "POST", "/default/run?moment=release": "POST"} {
		answer := asks[struct {
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
