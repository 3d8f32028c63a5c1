//go:build chaos && linux

package chaos

import (
	"encoding/json"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// What clients, services, operators and Caddy's log tell of one round. A client's address
// is its own, in all rounds, and what joins the four.

// visit is a connection as the service saw it.
type visit struct {
	Client netip.AddrPort
	At     time.Time
	Others []netip.AddrPort // who was at the service when it came
	Worker string           // which service it was
	PID    int              // its process

	Left     time.Time // zero: it has not yet, or its process was killed
	Whole    bool      // the job was read whole, with its end if it has one
	Answered bool      // the answer was written whole
}

// ending is a connection's line in Caddy's log.
type ending struct {
	Lock       string
	Client     netip.AddrPort
	Connection uint64
	Outcome    string
	Waited     float64
	Held       float64
	Slot       int
	At         time.Time `json:"-"` // of the line
}

// stays reports whether it goes on: its process may have been killed.
func (v *visit) stays() bool {
	return !v.told() && syscall.Kill(v.PID, 0) == nil
}

// told reports whether the service has told how it ended.
func (v *visit) told() bool { return !v.Left.IsZero() }

// alone is what a hook that has to be alone has found at the service, from its begin to
// its end.
type alone struct {
	lock   string
	hook   string
	at     time.Time
	others []netip.AddrPort
}

// limit is how many slots a lock has had from a moment on.
type limit struct {
	begin, end time.Time // of the reload
	slots      int
}

// span is a time.
type span struct{ begin, end time.Time }

// sighting is the newest connection that the admin API has shown at a moment.
type sighting struct {
	at time.Time
	id uint64
}

type records struct {
	mu        sync.Mutex
	clients   map[netip.AddrPort]*client
	visits    map[string][]*visit // by lock, in order
	byClient  map[netip.AddrPort]*visit
	endings   map[netip.AddrPort]ending
	unlogged  map[string]int // by lock
	cut       map[netip.AddrPort]time.Time
	kicked    map[netip.AddrPort]bool
	leftOver  map[netip.AddrPort]time.Time // since when
	paused    map[string][]span            // by lock: when it certainly was
	closed    map[string]bool              // by lock: its service's listener was, for a while
	alone     []alone
	limits    map[string][]limit
	sightings map[string][]sighting
	logged    []string // what must not be in Caddy's log
	broken    []string // what else was wrong at once
}

func newRecords() *records {
	return &records{
		clients:   make(map[netip.AddrPort]*client),
		visits:    make(map[string][]*visit),
		byClient:  make(map[netip.AddrPort]*visit),
		endings:   make(map[netip.AddrPort]ending),
		unlogged:  make(map[string]int),
		cut:       make(map[netip.AddrPort]time.Time),
		kicked:    make(map[netip.AddrPort]bool),
		leftOver:  make(map[netip.AddrPort]time.Time),
		paused:    make(map[string][]span),
		closed:    make(map[string]bool),
		limits:    make(map[string][]limit),
		sightings: make(map[string][]sighting),
	}
}

func (r *records) note(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// wrong tells some of what was wrong at once.
func (r *records) wrong(most int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Concat(r.logged, r.broken)
	return all[:min(len(all), most)]
}

// came notes a visit when it begins, or when it ends.
func (r *records) came(lock string, v *visit) {
	r.note(func() {
		before := r.byClient[v.Client]
		switch {
		case before == nil:
			r.visits[lock] = append(r.visits[lock], v)
			r.byClient[v.Client] = v
		case v.Left.IsZero():
			r.broken = append(r.broken, "came to the service twice: "+v.Client.String())
		default:
			*before = *v
		}
	})
}

// seen takes in a line of Caddy's log.
func (r *records) seen(line []byte) {
	if troubled(line) {
		r.note(func() { r.logged = append(r.logged, "in Caddy's log: "+string(line)) })
	}
	var entry struct {
		Msg         string
		TS          float64
		Connections int
		ending
	}
	if json.Unmarshal(line, &entry) != nil {
		return
	}
	at := time.UnixMicro(int64(entry.TS * 1e6))
	r.note(func() {
		switch entry.Msg {
		case "connection ended":
			if _, twice := r.endings[entry.Client]; twice {
				r.broken = append(r.broken, "has ended twice in the log: "+string(line))
			}
			entry.At = at
			r.endings[entry.Client] = entry.ending
		case "connections ended without a slot, and without a line of their own: there were too many":
			r.unlogged[entry.Lock] += entry.Connections
		case "hold_timeout is over, client cut":
			r.cut[entry.Client] = at
		case "slot handed on, but the service has not let go of the connection: it is left over":
			r.leftOver[entry.Client] = at
		}
	})
}
