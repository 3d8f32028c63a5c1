package tcplock

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// boards has the board, while a config has a status page. It outlives reloads.
var boards = caddy.NewUsagePool()

const boardKey = "board"

func enterBoard() *board {
	value, _, _ := boards.LoadOrNew(boardKey, func() (caddy.Destructor, error) { return newBoard(), nil })
	return value.(*board)
}

func exitBoard() { _, _ = boards.Delete(boardKey) }

const (
	boardInterval  = 250 * time.Millisecond
	looksPerSample = 4 // one sample a second
)

// board is what all status pages show: how the locks look now, and how they looked in the
// last minutes. It looks at the locks once for all viewers, and as seldom as once a
// second if there are none.
type board struct {
	quit, done chan struct{}

	mu      sync.Mutex
	viewers int
	looks   uint64 // how often it has looked for viewers
	now     time.Time
	cards   map[string]*card // by name of the lock; empty without viewers
	listed  uint64           // the look at which a lock came or went last
	changed chan struct{}    // closed when there is something new

	samples   uint64 // how many have been taken
	sampled   time.Time
	histories map[*lock]*history
	latest    []byte // the last sample, as viewers get it
	past      []byte // all of them, as a new viewer gets them; nil until one comes
}

// card is a lock as viewers get it.
type card struct {
	looked uint64      // the last look at it
	news   uint64      // the look at which it has changed last
	still  status.Lock // as it was then, but for what changes with time
	moved  int64       // the bytes its holders had sent and got
	json   []byte
}

func newBoard() *board {
	b := &board{
		quit:      make(chan struct{}),
		done:      make(chan struct{}),
		cards:     make(map[string]*card),
		changed:   make(chan struct{}),
		histories: make(map[*lock]*history),
	}
	go b.run()
	return b
}

// Destruct implements caddy.Destructor: no config has a status page any more.
func (b *board) Destruct() error {
	close(b.quit)
	<-b.done
	return nil
}

func (b *board) run() {
	defer close(b.done)
	ticker := time.NewTicker(boardInterval)
	defer ticker.Stop()
	b.tick(time.Now(), true)
	for n := 1; ; n++ {
		select {
		case now := <-ticker.C:
			b.tick(now, n%looksPerSample == 0)
		case <-b.quit:
			return
		}
	}
}

func (b *board) tick(now time.Time, sample bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	watched := b.viewers > 0
	if !watched && !sample {
		return
	}
	all := b.look()
	news := watched && b.show(now, all, sample)
	if sample {
		b.take(now, all)
	}
	if news || sample {
		close(b.changed)
		b.changed = make(chan struct{})
	}
}

// viewer is how far one viewer has got.
type viewer struct {
	looks   uint64 // the last look it has seen
	samples uint64
}

// mostViewers is how many there may be at once: each has a connection, and what it is
// slow to read takes memory.
const mostViewers = 200

// enter returns nil if there are as many viewers as there may be.
func (b *board) enter() *viewer {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.viewers == mostViewers {
		return nil
	}
	if b.viewers++; b.viewers == 1 {
		b.show(time.Now(), b.look(), true)
		b.listed = b.looks
	}
	return new(viewer)
}

func (b *board) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.viewers--; b.viewers == 0 {
		clear(b.cards)
	}
}

// What a viewer is shown of one lock. Of the rest it gets the count. With many locks the
// waiters are fewer, so that a look stays cheap.
const (
	shownSlots      = 128
	shownEvents     = 20
	mostWaiters     = 120
	leastWaiters    = 8
	waitersTogether = 12000 // of all locks
)

// lockAt is a lock and how it looked.
type lockAt struct {
	*lock
	status.Lock
}

func (b *board) look() (all []lockAt) {
	locks := locksInForce()
	waiters := 0
	if b.viewers > 0 {
		waiters = min(mostWaiters, max(leastWaiters, waitersTogether/max(1, len(locks))))
	}
	for _, l := range locks {
		all = append(all, lockAt{l, l.status(waiters)})
	}
	return all
}

// show puts on the board how the locks look now, and reports whether anything has changed.
// That bytes flow is news only if whole is true: it would be at every look.
func (b *board) show(now time.Time, all []lockAt, whole bool) (news bool) {
	b.looks++
	b.now = now
	for i := range all {
		s := &all[i].Lock
		c := b.cards[s.Name]
		if c == nil {
			c = new(card)
			b.cards[s.Name] = c
			b.listed = b.looks
		}
		c.looked = b.looks
		if c.update(s, whole) {
			c.news = b.looks
			news = true
		}
	}
	for name, c := range b.cards {
		if c.looked != b.looks {
			delete(b.cards, name)
			b.listed = b.looks
		}
	}
	return news || b.listed == b.looks
}

// update makes c show s. What only grows with time is no change: the viewer can tell.
func (c *card) update(s *status.Lock, whole bool) (changed bool) {
	shorten(s)
	still := *s
	still.Now, still.OldestWaitSeconds = time.Time{}, 0
	var moved int64
	still.Holders = slices.Clone(s.Holders)
	for i := range still.Holders {
		h := &still.Holders[i]
		moved += h.BytesIn + h.BytesOut
		h.BytesIn, h.BytesOut = 0, 0
	}
	still.Waiters = slices.Clone(s.Waiters)
	for i := range still.Waiters {
		still.Waiters[i].WaitedSeconds = 0
	}
	if (moved == c.moved || !whole) && reflect.DeepEqual(still, c.still) {
		return false
	}
	c.still, c.moved = still, moved
	c.json = encoded(s)
	return true
}

// shorten takes away what the page does not show to viewers.
func shorten(s *status.Lock) {
	holders, workers := s.Holders, s.Workers
	for len(holders) > 0 && holders[len(holders)-1].Slot > shownSlots {
		holders = holders[:len(holders)-1]
	}
	for len(workers) > 0 && workers[len(workers)-1].Slot > shownSlots {
		workers = workers[:len(workers)-1]
	}
	s.Holders, s.Workers = holders, workers
	s.Events = s.Events[:min(len(s.Events), shownEvents)]
}

// news returns what is new for v, in parts, and what tells when there is more. The parts
// are shared by all viewers, and are not to be changed: a first message may have megabytes.
func (b *board) news(v *viewer) (message [][]byte, more <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v.looks == 0 {
		message = append(message, event("history", b.history())...)
		v.samples = b.samples
	}
	if list := b.since(v.looks); list != nil {
		message = append(message, event("locks", list...)...)
	}
	v.looks = b.looks
	if v.samples < b.samples {
		message = append(message, event("sample", b.latest)...)
		v.samples = b.samples
	}
	return message, b.changed
}

// since returns, in pieces, the locks that have changed after a look, with the names of
// all if one came or went. It returns nil if there is nothing to tell.
func (b *board) since(look uint64) (list [][]byte) {
	head := struct {
		Now   time.Time `json:"now"`
		Names []string  `json:"names,omitzero"`
	}{Now: b.now}
	if b.listed > look {
		head.Names = slices.AppendSeq(make([]string, 0, len(b.cards)), maps.Keys(b.cards))
	}
	for _, c := range b.cards {
		if c.news > look {
			list = append(list, []byte(","), c.json)
		}
	}
	if len(list) == 0 && head.Names == nil {
		return nil
	}
	raw := encoded(head)
	list = append([][]byte{raw[:len(raw)-1], []byte(`,"locks":[`)}, list[min(1, len(list)):]...)
	return append(list, []byte("]}"))
}

// event is a server-sent event, whose data is in parts.
func event(name string, data ...[]byte) [][]byte {
	parts := append([][]byte{[]byte("event: " + name + "\ndata: ")}, data...)
	return append(parts, []byte("\n\n"))
}

// encoded is for what JSON has words for.
func encoded(v any) []byte {
	raw, _ := json.Marshal(v)
	return raw
}
