package page

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/inside"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// hubs holds the hub while a config has a status page. So a reload keeps the hub.
var hubs = caddy.NewUsagePool()

const hubKey = "hub"

func init() {
	inside.Hubs = func() (n int) {
		hubs.Range(func(any, any) bool { n++; return true })
		return n
	}
}

const (
	pollInterval   = 250 * time.Millisecond
	pollsPerSample = 4 // one sample a second
)

// hub serves all viewers of all status pages. It polls the locks once for all viewers, and
// keeps a snapshot and the last minutes of each lock. Without viewers, it polls only once a
// second, for the history.
type hub struct {
	quit, done chan struct{}

	mu        sync.Mutex
	viewers   int
	polls     uint64 // numbers the polls for viewers
	now       time.Time
	snapshots map[string]*snapshot // by name of the lock; empty without viewers
	listed    uint64               // the last poll at which a lock came or went
	changed   chan struct{}        // closed when there are updates

	samples   uint64 // numbers the samples
	sampled   time.Time
	histories map[*lock.Lock]*history
	latest    []byte // the last sample, as viewers get it
	past      []byte // the histories, as a new viewer gets them; nil until the next one comes
}

// snapshot is a lock as viewers get it.
type snapshot struct {
	polled  uint64      // the last poll that found the lock
	changed uint64      // the last poll at which it had changed
	still   status.Lock // as it was then, without what changes with time alone
	moved   int64       // how many bytes its holders had sent and received
	json    []byte
}

func newHub() *hub {
	h := &hub{
		quit:      make(chan struct{}),
		done:      make(chan struct{}),
		snapshots: make(map[string]*snapshot),
		changed:   make(chan struct{}),
		histories: make(map[*lock.Lock]*history),
	}
	go h.run()
	return h
}

// Destruct implements caddy.Destructor. Caddy calls it when no config has a status page any more.
func (h *hub) Destruct() error {
	close(h.quit)
	<-h.done
	return nil
}

func (h *hub) run() {
	defer close(h.done)
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	h.tick(time.Now(), true)
	for n := 1; ; n++ {
		select {
		case now := <-ticker.C:
			h.tick(now, n%pollsPerSample == 0)
		case <-h.quit:
			return
		}
	}
}

func (h *hub) tick(now time.Time, sample bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	watched := h.viewers > 0
	if !watched && !sample {
		return
	}
	all := h.poll()
	changed := watched && h.update(now, all, sample)
	if sample {
		h.take(now, all)
	}
	if changed || sample {
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

// viewer says which updates a viewer has got already.
type viewer struct {
	polls   uint64 // the last poll that it knows
	samples uint64 // the last sample
}

// mostViewers bounds the viewers: each has a connection, and takes memory while it reads slowly.
const mostViewers = 200

// enter adds a viewer. It returns nil if there are mostViewers already.
func (h *hub) enter() *viewer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.viewers == mostViewers {
		return nil
	}
	if h.viewers++; h.viewers == 1 {
		h.update(time.Now(), h.poll(), true)
		h.listed = h.polls
	}
	return new(viewer)
}

func (h *hub) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.viewers--; h.viewers == 0 {
		clear(h.snapshots)
	}
}

// How much of a lock a viewer gets. Of the rest it gets the count. With many locks it gets fewer
// waiters of each, so that a poll stays cheap.
const (
	shownSlots      = 128
	shownEvents     = 20
	mostWaiters     = 120
	leastWaiters    = 8
	waitersTogether = 12000 // of all locks
)

// lockAt is a lock with its status at a poll.
type lockAt struct {
	lock   *lock.Lock
	status status.Lock
}

func (h *hub) poll() (all []lockAt) {
	locks := lock.InForce()
	waiters := 0
	if h.viewers > 0 {
		waiters = min(mostWaiters, max(leastWaiters, waitersTogether/max(1, len(locks))))
	}
	for _, l := range locks {
		all = append(all, lockAt{l, l.Status(waiters)})
	}
	return all
}

// update brings the snapshots up to date, and reports whether anything has changed. Without
// bytes, bytes that have moved are no change. Otherwise a busy lock would change at every poll.
func (h *hub) update(now time.Time, all []lockAt, bytes bool) (changed bool) {
	h.polls++
	h.now = now
	for i := range all {
		found := &all[i].status
		s := h.snapshots[found.Name]
		if s == nil {
			s = new(snapshot)
			h.snapshots[found.Name] = s
			h.listed = h.polls
		}
		s.polled = h.polls
		if s.update(found, bytes) {
			s.changed = h.polls
			changed = true
		}
	}
	for name, s := range h.snapshots {
		if s.polled != h.polls {
			delete(h.snapshots, name)
			h.listed = h.polls
		}
	}
	return changed || h.listed == h.polls
}

// update reports whether the lock has changed, and if so takes its status. A time that has only
// passed is no change: the page counts on by itself.
func (s *snapshot) update(found *status.Lock, bytes bool) (changed bool) {
	shorten(found)
	still := *found
	still.Now, still.OldestWaitSeconds = time.Time{}, 0
	var moved int64
	still.Holders = slices.Clone(found.Holders)
	for i := range still.Holders {
		holder := &still.Holders[i]
		moved += holder.BytesIn + holder.BytesOut
		holder.BytesIn, holder.BytesOut = 0, 0
	}
	still.Waiters = slices.Clone(found.Waiters)
	for i := range still.Waiters {
		still.Waiters[i].WaitedSeconds = 0
	}
	if (moved == s.moved || !bytes) && reflect.DeepEqual(still, s.still) {
		return false
	}
	s.still, s.moved = still, moved
	s.json = encoded(found)
	return true
}

// shorten removes what viewers do not get.
func shorten(s *status.Lock) {
	s.Holders = slices.DeleteFunc(s.Holders, func(c status.Connection) bool { return c.Slot > shownSlots })
	s.Workers = slices.DeleteFunc(s.Workers, func(w status.Worker) bool { return w.Slot > shownSlots })
	s.Events = s.Events[:min(len(s.Events), shownEvents)]
}

// updates returns, in parts, what v has not got yet, and a channel that is closed when there is
// more. All viewers share the parts, because a first message may have megabytes. So the caller
// must not change them.
func (h *hub) updates(v *viewer) (message [][]byte, more <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v.polls == 0 {
		message = append(message, event("history", h.history())...)
		v.samples = h.samples
	}
	if list := h.since(v.polls); list != nil {
		message = append(message, event("locks", list...)...)
	}
	v.polls = h.polls
	if v.samples < h.samples {
		message = append(message, event("sample", h.latest)...)
		v.samples = h.samples
	}
	return message, h.changed
}

// since returns, in parts, the locks that have changed since a poll, and the names of all if one
// came or went. It returns nil if nothing has changed.
func (h *hub) since(poll uint64) (list [][]byte) {
	head := struct {
		Now   time.Time `json:"now"`
		Names []string  `json:"names,omitzero"`
	}{Now: h.now}
	if h.listed > poll {
		head.Names = slices.AppendSeq(make([]string, 0, len(h.snapshots)), maps.Keys(h.snapshots))
	}
	for _, s := range h.snapshots {
		if s.changed > poll {
			list = append(list, []byte(","), s.json)
		}
	}
	if len(list) == 0 && head.Names == nil {
		return nil
	}
	raw := encoded(head)
	list = append([][]byte{raw[:len(raw)-1], []byte(`,"locks":[`)}, list[min(1, len(list)):]...)
	return append(list, []byte("]}"))
}

// event returns a server-sent event with this data, in parts.
func event(name string, data ...[]byte) [][]byte {
	parts := append([][]byte{[]byte("event: " + name + "\ndata: ")}, data...)
	return append(parts, []byte("\n\n"))
}

// encoded returns v as JSON. v is of a type that can always be encoded.
func encoded(v any) []byte {
	raw, _ := json.Marshal(v)
	return raw
}
