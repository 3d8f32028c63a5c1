package tcplock

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/gdamore/tcell/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// top is what the command top knows and shows. Only one goroutine has it.
type top struct {
	address  string // of Caddy
	interval time.Duration

	locks    []status.Lock
	answered time.Time             // when Caddy answered last; zero: never
	at       time.Time             // of the last look
	err      error                 // why it has found nothing
	warning  string                // of the answers, see adminClient; empty: none
	pasts    map[string][]pastLook // of each lock, the newest last

	lock       string             // that is chosen
	connection *status.Connection // of this lock, that is chosen, or nil
	question   *order             // carried out if the answer is yes
	note       span               // what came of the last one
	help       bool
}

// looked is what a look has found.
type looked struct {
	at      time.Time
	locks   []status.Lock
	err     error
	warning string
}

// order is what the user wants done to a lock.
type order struct {
	lock, verb string
	query      url.Values
	said       string // when it is done
}

// pastLook is one point of what a lock was like.
type pastLook struct {
	at      time.Time
	ended   map[string]uint64 // by class
	waiting int
}

const (
	ratesOver = 10 * time.Second // rates are those of this time
	keptLooks = 120
)

// look takes what a look has found. If Caddy did not answer, what it told before stays.
func (t *top) look(l looked) {
	t.at, t.err, t.warning = l.at, l.err, l.warning
	if l.err != nil {
		return
	}
	t.locks, t.answered = l.locks, l.at
	pasts := make(map[string][]pastLook)
	for i := range t.locks {
		s := &t.locks[i]
		now := pastLook{s.Now, make(map[string]uint64), s.Waiting}
		for _, c := range classes {
			now.ended[c.name] = sum(s.Connections, c.outcomes)
		}
		past := t.pasts[s.Name]
		if len(past) > 0 && past[len(past)-1].isAfter(&now) {
			past = nil
		}
		past = append(past, now)
		pasts[s.Name] = past[max(0, len(past)-keptLooks):]
	}
	t.pasts = pasts
	t.chooseAgain()
}

// isAfter reports whether a lock has come to less than p: it is a new one of a new Caddy.
func (p *pastLook) isAfter(now *pastLook) bool {
	for class, n := range p.ended {
		if n > now.ended[class] {
			return true
		}
	}
	return false
}

// rates are how many connections of each class end in a second.
func (t *top) rates(lock string) map[string]float64 {
	rates, past := make(map[string]float64), t.pasts[lock]
	if len(past) == 0 {
		return rates
	}
	last := past[len(past)-1]
	first, _ := slices.BinarySearchFunc(past, last.at.Add(-ratesOver), func(p pastLook, at time.Time) int { return p.at.Compare(at) })
	if d := last.at.Sub(past[first].at).Seconds(); d > 0 {
		for class, n := range last.ended {
			rates[class] = float64(n-past[first].ended[class]) / d
		}
	}
	return rates
}

// chooseAgain keeps what is chosen, as long as it is there. Nothing else takes the place
// of a connection that has gone: a key might be on its way.
func (t *top) chooseAgain() {
	if t.chosen() == nil && len(t.locks) > 0 {
		t.lock, t.connection = t.locks[0].Name, nil
	}
	if t.connection == nil {
		return
	}
	for _, c := range connections(t.chosen()) {
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

// chosen is the chosen lock, or nil if there is none.
func (t *top) chosen() *status.Lock {
	for i := range t.locks {
		if t.locks[i].Name == t.lock {
			return &t.locks[i]
		}
	}
	return nil
}

// connections are a lock's, in the order in which they are shown.
func connections(s *status.Lock) []status.Connection {
	return slices.Concat(s.Holders, s.Waiters)
}

// key is what the user has typed. It returns what he wants done, and whether he wants to
// see no more.
func (t *top) key(key tcell.Key, r rune) (o *order, over bool) {
	t.note = span{}
	switch {
	case key == tcell.KeyCtrlC:
		return nil, true
	case t.help:
		t.help = false
		return nil, false
	case t.question != nil:
		o, t.question = t.question, nil
		if r == 'y' || r == 'Y' {
			return o, false
		}
		return nil, false
	}
	switch key {
	case tcell.KeyUp:
		t.chooseLock(-1)
	case tcell.KeyDown:
		t.chooseLock(1)
	case tcell.KeyTab, tcell.KeyRight:
		t.chooseConnection(1)
	case tcell.KeyBacktab, tcell.KeyLeft:
		t.chooseConnection(-1)
	case tcell.KeyEscape:
		t.connection = nil
	case tcell.KeyRune:
		switch r {
		case 'q':
			return nil, true
		case '?':
			t.help = true
		default:
			return t.command(r), false
		}
	}
	return nil, false
}

// command is a key that does something to the chosen lock.
func (t *top) command(r rune) *order {
	s := t.chosen()
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
			t.note = span{text: "choose a connection first, by Tab"}
			return nil
		}
		id := strconv.FormatUint(t.connection.ID, 10)
		t.question = &order{s.Name, "kick", url.Values{"id": {id}}, "kicked connection " + id}
	case 'R':
		if !slices.ContainsFunc(s.Workers, func(w status.Worker) bool { return w.Process != nil }) {
			t.note = span{text: s.Name + " has no service of its own to restart"}
			return nil
		}
		return &order{s.Name, "restart", nil, "the service restarts between two clients of each slot"}
	}
	return nil
}

func (t *top) chooseLock(by int) {
	i := slices.IndexFunc(t.locks, func(s status.Lock) bool { return s.Name == t.lock })
	if next := i + by; next >= 0 && next < len(t.locks) {
		t.lock, t.connection = t.locks[next].Name, nil
	}
}

func (t *top) chooseConnection(by int) {
	s := t.chosen()
	if s == nil {
		return
	}
	all := connections(s)
	next := 0
	if t.connection != nil {
		next = by + slices.IndexFunc(all, func(c status.Connection) bool { return c.ID == t.connection.ID })
	}
	if next >= 0 && next < len(all) {
		t.connection = &all[next]
	}
}
