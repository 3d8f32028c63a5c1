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

// The records of one round come from the clients, the services, the operators and Caddy's log. Each
// client of the test has an address of its own, which connects its records.

// visit is a connection as the service saw it.
type visit struct {
	Client netip.AddrPort
	At     time.Time
	Others []netip.AddrPort // the other connections at the service when it came
	Worker string           // the address of the service
	PID    int              // the process of the service

	Left     time.Time // zero: it has not left yet, or the process was killed
	Whole    bool      // the service has read the whole job, with the FIN if the job has one
	Answered bool      // the service has written the whole answer
}

// ending is the line of a connection in Caddy's log.
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

// stays reports whether the visit goes on. It does not if the process was killed.
func (v *visit) stays() bool {
	return !v.told() && syscall.Kill(v.PID, 0) == nil
}

// told reports whether the service has reported the end of the visit.
func (v *visit) told() bool { return !v.Left.IsZero() }

// alone has the connections at the service while a hook ran that must run alone.
type alone struct {
	lock   string
	hook   string
	at     time.Time
	others []netip.AddrPort
}

// limit is the number of slots of a lock from a reload on.
type limit struct {
	begin, end time.Time // of the reload
	slots      int
}

// span is a period of time.
type span struct{ begin, end time.Time }

// sighting is the number of the newest connection that the admin API has shown at a moment.
type sighting struct {
	at time.Time
	id uint64
}

type records struct {
	mu        sync.Mutex
	clients   map[netip.AddrPort]*client
	visits    map[string][]*visit // by lock, in order of time
	byClient  map[netip.AddrPort]*visit
	endings   map[netip.AddrPort]ending
	unlogged  map[string]int // by lock: how many endings have no line in the log
	cut       map[netip.AddrPort]time.Time
	kicked    map[netip.AddrPort]bool
	leftOver  map[netip.AddrPort]time.Time // since when
	paused    map[string][]span            // by lock: when it was certainly paused
	closed    map[string]bool              // by lock: whether its service's listener was closed for a while
	alone     []alone
	limits    map[string][]limit
	sightings map[string][]sighting
	logged    []string // lines that must not be in Caddy's log
	broken    []string // other errors that were found during the round
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

// wrong returns some of the errors that were found during the round.
func (r *records) wrong(most int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Concat(r.logged, r.broken)
	return all[:min(len(all), most)]
}

// came records a visit when it begins, and again when it ends.
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

// seen records a line of Caddy's log.
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
