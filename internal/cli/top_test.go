package cli

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gdamore/tcell/v2"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/text"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// topOf returns a top that has polled once.
func topOf(locks ...status.Lock) *top {
	t := &top{address: "localhost:2019", interval: time.Second}
	t.update(polled{at: sampleTime, locks: locks})
	return t
}

// screenOf returns the view as text.
func screenOf(t *top, width, height int) string { return printed(t.view(width, height)) }

// press types keys: letters, and ↑ ↓ → ← for the arrows.
func press(t *top, keys string) (orders []string, over bool) {
	arrows := map[rune]tcell.Key{'↑': tcell.KeyUp, '↓': tcell.KeyDown, '→': tcell.KeyTab, '←': tcell.KeyBacktab, '␛': tcell.KeyEscape}
	for _, r := range keys {
		key, is := arrows[r]
		if !is {
			key = tcell.KeyRune
		}
		o, quit := t.key(key, r)
		if o != nil {
			orders = append(orders, strings.TrimSpace(o.lock+" "+o.verb+" "+o.query.Encode()))
		}
		over = over || quit
	}
	return orders, over
}

// What the keys do, on two locks: a with holder 1 and waiters 2 and 3, b with holder 1
// and a service of its own.
func TestTopKeys(t *testing.T) {
	a := status.Lock{Name: "a", Slots: 1, Held: 1, Waiting: 2,
		Holders: []status.Connection{{ID: 1, Slot: 1}}, Waiters: []status.Connection{{ID: 2}, {ID: 3}}}
	b := status.Lock{Name: "b", Slots: 1, Held: 1, Holders: []status.Connection{{ID: 1, Slot: 1}},
		Workers: []status.Worker{{Slot: 1, Process: &status.Process{State: "ready"}}}}
	for keys, want := range map[string]string{
		"p":      "a pause",
		"r":      "a resume",
		"↓p":     "b pause",
		"↓↓p":    "b pause",
		"↓↑↑p":   "a pause",
		"k":      "",
		"→k":     "",
		"→kn":    "",
		"→ky":    "a kick id=1",
		"→kY":    "a kick id=1",
		"→→ky":   "a kick id=2",
		"→→→→ky": "a kick id=3",
		"→→←ky":  "a kick id=1",
		"←ky":    "a kick id=1",
		"→␛ky":   "",
		"→↓ky":   "",
		"→↓→ky":  "b kick id=1",
		"→kp":    "",
		"→kpy":   "",
		"→kqy":   "",
		"R":      "",
		"↓R":     "b restart",
		"?p":     "",
		"?pp":    "a pause",
		"x":      "",
		"q":      "quit",
		"→kq":    "",
		"→kqq":   "quit",
		"?q":     "",
		"?qq":    "quit",
		"→k?":    "",
		"pr":     "a pause, a resume",
	} {
		orders, over := press(topOf(a, b), keys)
		if over {
			orders = append(orders, "quit")
		}
		if got := strings.Join(orders, ", "); got != want {
			t.Errorf("%s: got %q, expected %q", keys, got, want)
		}
	}
	if _, over := topOf().key(tcell.KeyCtrlC, 'c'); !over {
		t.Error("Ctrl-C does not end it")
	}
	for _, keys := range []string{"p", "→", "↓", "k", "R"} { // no lock to do it to
		if orders, _ := press(topOf(), keys); orders != nil {
			t.Errorf("%s without locks: got %v", keys, orders)
		}
	}
}

// Keys do nothing when Caddy does not answer.
func TestTopKeysInVain(t *testing.T) {
	top := topOf(status.Lock{Name: "a"})
	top.update(polled{at: sampleTime, err: errors.New("refused")})
	if orders, _ := press(top, "p"); orders != nil {
		t.Errorf("without an answer: got %v", orders)
	}
}

// The selected connection stays selected wherever it goes. When it has ended, none is selected,
// and a question about it is withdrawn, so that the answer hits no other connection. After a
// restart of Caddy the same id is another connection.
func TestTopSelectedConnection(t *testing.T) {
	lock := func(holder, waiter status.Connection) status.Lock {
		return status.Lock{Name: "a", Slots: 1, Holders: []status.Connection{holder}, Waiters: []status.Connection{waiter}}
	}
	one, two, three := status.Connection{ID: 1, Client: "c1"}, status.Connection{ID: 2, Client: "c2"}, status.Connection{ID: 3, Client: "c3"}
	top := topOf(lock(one, two))
	press(top, "→→k")
	top.update(polled{at: sampleTime, locks: []status.Lock{lock(two, three)}})
	if top.connection == nil || top.connection.ID != 2 || top.question == nil {
		t.Fatal("connection 2 got its slot: it is not selected any more")
	}
	top.update(polled{at: sampleTime, locks: []status.Lock{lock(status.Connection{ID: 2, Client: "another"}, three)}})
	if orders, _ := press(top, "y"); orders != nil || top.connection != nil {
		t.Errorf("connection 2 has ended: it is still selected, or was kicked: %v", orders)
	}
	top.update(polled{at: sampleTime, locks: []status.Lock{{Name: "b"}}})
	if orders, _ := press(top, "p"); fmt.Sprint(orders) != "[b pause]" {
		t.Errorf("lock a is gone: got %v, expected a pause of b", orders)
	}
}

// Rates are means of the last 10 seconds, and start afresh after a restart of Caddy.
func TestTopRates(t *testing.T) {
	top, at := new(top), sampleTime
	poll := func(after time.Duration, served_, refused uint64) float64 {
		at = at.Add(after)
		top.update(polled{at: at, locks: []status.Lock{{Name: "a", Now: at, Connections: map[string]uint64{status.Served: served_, status.RefusedFull: refused}}}})
		return top.rate("a", &classes[0])
	}
	for i, step := range []struct {
		after  time.Duration
		served uint64
		want   float64
	}{
		{0, 1000, 0},
		{time.Second, 1005, 5},
		{time.Second, 1005, 2.5},
		{8 * time.Second, 1055, 5.5},
		{5 * time.Second, 1055, 0}, // of the last 10 seconds there is only the last poll
		{10 * time.Second, 1055, 0},
		{time.Second, 3, 0},
		{time.Second, 10, 7},
	} {
		if got := poll(step.after, step.served, 0); got != step.want {
			t.Errorf("poll %d: got %v a second, expected %v", i, got, step.want)
		}
	}
	for range 2 * keptPolls {
		poll(time.Second, 10, 0)
	}
	if n := len(top.pasts["a"]); n != keptPolls {
		t.Errorf("keeps %d polls, expected %d", n, keptPolls)
	}
}

const sampleScreen = `
 tcplock  Caddy at localhost:2019                            every 1s  12:00:00

   LOCK     SLOTS  WAITING  OLDEST  SERVED  REFUSED  FAILED  STATE
 ▸ soffice    2/3     4/50   1m01s     0/s      0/s     0/s  paused for 1m12s (…

 soffice  paused for 1m12s (3m00s left), 2 of 3 workers down, 1 left over
 waits p50 4ms  p90 2.5s  p99 30s  longest 31s  restarts 6

   SLOT     ID  HOLDER                   HELD  STATE       WORKER
      1     17  127.0.0.1:51234          2.5s  connected   127.0.0.1:8101
      2         free
      3      9  [2001:db8::1]:40000     1h00m  ending      127.0.0.1:8103

   SLOT  WORKER          STATE    PROCESS         FOR  REASON
      1  127.0.0.1:8101  up       ready         1h00m  due: every
      2  127.0.0.1:8102  unready  backing off    2.0s  exit status 1
      3  127.0.0.1:8103  down

   POSITION     ID  WAITER                 WAITED  PRIORITY
          1     18  unix?[31m?]0;title?     1m01s        10
          2     20  127.0.0.1:51236         500ms
   ... and 2 more

 ↑↓ lock  Tab connection  p pause  r resume  k kick  R restart  ? help  q quit
`

// What the view shows on a small terminal, to the letter. It fits on any terminal, without a
// control character, whatever is selected.
func TestTopView(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	top := topOf(sampleLocks())
	got := screenOf(top, 80, 24)
	if got != sampleScreen[1:] {
		t.Errorf("got\n%swant%s", got, sampleScreen)
	}
	for l := range strings.Lines(help) {
		if n := utf8.RuneCountInString(margin + l); n > 81 {
			t.Errorf("found %d columns, expected 80 at most: %s", n, l)
		}
	}
	busy := sampleLocks()
	busy.Name, busy.Slots, busy.Workers = "busy", 40, nil
	for i := range 60 {
		busy.Waiters = append(busy.Waiters, status.Connection{ID: uint64(100 + i), Client: "\x1b[2J", Position: 3 + i})
		busy.Events = append(busy.Events, status.Event{Event: "\x1b[2J", Time: sampleTime})
	}
	top = topOf(sampleLocks(), busy, status.Lock{Name: "idle", Slots: 1})
	for _, keys := range []string{"", "→", "↓", "→→→→→→→→→→→→→→→→→→→→→→→→→→→→→→k", "n↓", "?", "x"} {
		press(top, keys)
		for width := 0; width < 200; width += 1 + width/20 {
			for height := 0; height < 70; height += 1 + height/20 {
				lines := top.view(width, height)
				if len(lines) != height {
					t.Fatalf("%d x %d: got %d lines", width, height, len(lines))
				}
				for _, l := range lines {
					words := l.String()
					if n := utf8.RuneCountInString(words); n > width {
						t.Fatalf("%d x %d: got a line of %d: %q", width, height, n, words)
					}
					if text.Printable(words) != words {
						t.Fatalf("%d x %d: got %q", width, height, words)
					}
				}
			}
		}
	}
}

// The selected connection is on the screen, wherever in the line it stands.
func TestTopScrolls(t *testing.T) {
	s := status.Lock{Name: "a", Slots: 1, Waiting: 1000}
	for i := range 100 {
		s.Waiters = append(s.Waiters, status.Connection{ID: uint64(i + 1), Client: fmt.Sprintf("c%d.", i+1), Position: i + 1})
	}
	top := topOf(s)
	if screen := screenOf(top, 80, 24); !strings.Contains(screen, "... and 991 more") {
		t.Errorf("found no count of the waiters that are not shown:\n%s", screen)
	}
	for i := range 100 {
		press(top, "→")
		if screen := screenOf(top, 80, 24); !strings.Contains(screen, "▸") || !strings.Contains(screen, fmt.Sprintf(" c%d. ", i+1)) {
			t.Fatalf("connection %d is selected, and not shown:\n%s", i+1, screen)
		}
	}
	if screen := screenOf(top, 80, 24); !strings.Contains(screen, "before, 900 after") {
		t.Errorf("found no count of the waiters that are not shown:\n%s", screen)
	}
}

// top on a simulated terminal: it shows a lock, carries out keys, fits itself to a new size, says
// that Caddy does not answer, goes on when it does again, and quits.
func TestTopRuns(t *testing.T) {
	api := newFakeAdmin(t, answerJSON(status.Lock{}), sampleLocks())
	client, err := newAdminClient(api.address())
	if err != nil {
		t.Fatal(err)
	}
	screen := tcell.NewSimulationScreen("")
	if err := screen.Init(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	cmd := topCommand().cobra()
	cmd.SetContext(t.Context())
	go func() { ended <- watch(&call{Command: cmd, client: client}, screen, 20*time.Millisecond) }()
	shows := func(want string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !strings.Contains(contents(screen), want); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("found no %q on the screen:\n%s", want, contents(screen))
			}
		}
	}
	shows("▸ soffice")
	screen.InjectKey(tcell.KeyRune, 'p', 0)
	shows("soffice: paused")
	screen.InjectKey(tcell.KeyTab, 0, 0)
	screen.InjectKey(tcell.KeyRune, 'k', 0)
	shows("Kick connection 17 (127.0.0.1:51234, connected)? y/n")
	screen.InjectKey(tcell.KeyRune, 'y', 0)
	shows("soffice: kicked connection 17")
	if want := "POST /tcplock/locks/soffice/pause\nPOST /tcplock/locks/soffice/kick?id=17"; api.asked() != want {
		t.Errorf("asked for\n%s\nexpected\n%s", api.asked(), want)
	}
	screen.SetSize(160, 50)
	shows("LOCK     SLOTS  WAITING  OLDEST     P50     P99  SERVED")

	api.set(true)
	shows("s: Caddy answered 503: too busy")
	shows("▸ soffice")
	api.set(false, status.Lock{Name: "another"})
	shows("▸ another")
	if strings.Contains(contents(screen), "503") {
		t.Errorf("Caddy answers, and the screen still says that it does not:\n%s", contents(screen))
	}

	screen.InjectKey(tcell.KeyRune, 'q', 0)
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("q does not end it")
	}
}

// Without colours no colour is set: tcell would pick colours of its own. A selected row stands out, and
// what is out of date is faint.
func TestStyles(t *testing.T) {
	for s := stylePlain; s <= styleAlarm; s = max(1, 2*s) {
		if colour, _, _ := tcellStyle(s, false).Decompose(); colour != tcell.ColorDefault {
			t.Errorf("style %d: got colour %v, expected none", s, colour)
		}
		if tcellStyle(s, true) == tcellStyle(s|styleSelected, true) {
			t.Errorf("style %d looks the same when it is selected", s)
		}
		if tcellStyle(s|styleFaint, true) != tcellStyle(styleFaint, true) {
			t.Errorf("style %d is not faint when it is out of date", s)
		}
	}
}

// contents returns the text on a simulated terminal.
func contents(screen tcell.Screen) string {
	width, height := screen.Size()
	var out strings.Builder
	for y := range height {
		for x := range width {
			text, _, _ := screen.Get(x, y)
			out.WriteString(text)
		}
		out.WriteByte('\n')
	}
	return out.String()
}
