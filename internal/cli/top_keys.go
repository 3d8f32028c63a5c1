package cli

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/gdamore/tcell/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// top is the state of the command top. Only one goroutine uses it.
type top struct {
	address  string // of Caddy
	interval time.Duration

	polled                            // the last one; but the locks are those of the last answer
	answered time.Time                // when Caddy answered last; zero: never
	pasts    map[string][]status.Lock // the counts of each lock at the last polls, the newest last

	lock       string             // the selected one
	connection *status.Connection // the selected one of this lock, or nil
	question   *order             // carried out if the user answers yes
	note       span               // the result of the last order
	help       bool
}

// polled is the result of a poll.
type polled struct {
	at      time.Time
	locks   []status.Lock
	err     error
	warning string // that two Caddys answer, or empty
}

// order is a verb for a lock, as the user has asked by a key.
type order struct {
	lock, verb string
	query      url.Values
	said       string // the note when it is done
}

const (
	ratesOver = 10 * time.Second // rates are means over this time
	keptPolls = 120
)

// update takes the result of a poll. If Caddy did not answer, the locks stay as they were.
func (t *top) update(p polled) {
	locks := t.locks
	t.polled = p
	if p.err != nil {
		t.locks = locks
		return
	}
	t.answered = p.at
	pasts := make(map[string][]status.Lock)
	for _, s := range t.locks {
		now := status.Lock{Now: s.Now, Connections: s.Connections, Waiting: s.Waiting}
		past := t.pasts[s.Name]
		if len(past) > 0 && isReset(&past[len(past)-1], &now) {
			past = nil
		}
		past = append(past, now)
		pasts[s.Name] = past[max(0, len(past)-keptPolls):]
	}
	t.pasts = pasts
	t.reselect()
}

// isReset reports whether a count of now is less than before. Then now is of a new lock, as after a
// restart of Caddy.
func isReset(before, now *status.Lock) bool {
	return slices.ContainsFunc(classes, func(c class) bool {
		return c.count(now.Connections) < c.count(before.Connections)
	})
}

// rate returns how many connections of a class end each second.
func (t *top) rate(lock string, c *class) float64 {
	past := t.pasts[lock]
	last := past[len(past)-1]
	first, _ := slices.BinarySearchFunc(past, last.Now.Add(-ratesOver),
		func(s status.Lock, at time.Time) int { return s.Now.Compare(at) })
	d := last.Now.Sub(past[first].Now).Seconds()
	if d <= 0 {
		return 0
	}
	return float64(c.count(last.Connections)-c.count(past[first].Connections)) / d
}

// reselect keeps the selection as long as the selected lock or connection exists. It never
// selects another connection by itself: the user may be about to press k.
func (t *top) reselect() {
	if t.selected() == nil && len(t.locks) > 0 {
		t.lock, t.connection = t.locks[0].Name, nil
	}
	if t.connection == nil {
		return
	}
	for _, c := range t.connections() {
		if c.ID == t.connection.ID && c.Client == t.connection.Client {
			t.connection = &c
			return
		}
	}
	if t.question != nil {
		t.note = span{text: fmt.Sprintf("connection %d has ended", t.connection.ID)}
	}
	t.connection, t.question = nil, nil
}

// selected returns the selected lock, or nil if there is none.
func (t *top) selected() *status.Lock {
	for i := range t.locks {
		if t.locks[i].Name == t.lock {
			return &t.locks[i]
		}
	}
	return nil
}

// connections returns the connections of the selected lock in the order in which the view shows them.
func (t *top) connections() []status.Connection {
	if s := t.selected(); s != nil {
		return slices.Concat(s.Holders, s.Waiters)
	}
	return nil
}

// key handles a key. It returns an order for a lock, or nil, and whether the user quits.
func (t *top) key(key tcell.Key, r rune) (o *order, quit bool) {
	t.note = span{}
	switch {
	case key == tcell.KeyCtrlC:
		return nil, true
	case t.help:
		t.help = false
		return nil, false
	case t.question != nil:
		if r == 'y' || r == 'Y' {
			o = t.question
		}
		t.question = nil
		return o, false
	}
	switch key {
	case tcell.KeyUp:
		t.selectLock(-1)
	case tcell.KeyDown:
		t.selectLock(1)
	case tcell.KeyTab, tcell.KeyRight:
		t.selectConnection(1)
	case tcell.KeyBacktab, tcell.KeyLeft:
		t.selectConnection(-1)
	case tcell.KeyEscape:
		t.connection = nil
	case tcell.KeyRune:
		t.help = r == '?'
		return t.command(r), r == 'q'
	}
	return nil, false
}

// command handles a key that is for the selected lock.
func (t *top) command(r rune) *order {
	s := t.selected()
	if s == nil || t.err != nil {
		return nil
	}
	switch r {
	case 'p':
		return &order{s.Name, "pause", nil, "paused"}
	case 'r':
		return &order{s.Name, "resume", nil, "resumed"}
	case 'k':
		if t.connection == nil {
			t.note.text = "select a connection first, with Tab"
			return nil
		}
		id := strconv.FormatUint(t.connection.ID, 10)
		t.question = &order{s.Name, "kick", url.Values{"id": {id}}, "kicked connection " + id}
	case 'R':
		if !slices.ContainsFunc(s.Workers, func(w status.Worker) bool { return w.Process != nil }) {
			t.note.text = s.Name + " has no service of its own to restart"
			return nil
		}
		return &order{s.Name, "restart", nil, "the service restarts between two clients of each slot"}
	}
	return nil
}

func (t *top) selectLock(by int) {
	i := slices.IndexFunc(t.locks, func(s status.Lock) bool { return s.Name == t.lock })
	if next := i + by; next >= 0 && next < len(t.locks) {
		t.lock, t.connection = t.locks[next].Name, nil
	}
}

func (t *top) selectConnection(by int) {
	all, next := t.connections(), 0
	if t.connection != nil {
		next = by + slices.IndexFunc(all, func(c status.Connection) bool { return c.ID == t.connection.ID })
	}
	if next >= 0 && next < len(all) {
		t.connection = &all[next]
	}
}
