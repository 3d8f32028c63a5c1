//go:build chaos && linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// operator does what happens to Caddy, the services and the network in one round.
type operator struct {
	arena  *arena
	record *records
	slots  map[string]int

	reloads int
	slowest time.Duration

	all     sync.WaitGroup // actions in the background
	mu      sync.Mutex
	deeds   map[string]int
	pausing map[*arenaLock]bool
}

// did counts an action. An action without an answer is no error, since at a reload Caddy may close a
// connection that has just come to its admin API.
func (o *operator) did(what string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if refused := (*apiError)(nil); errors.As(err, &refused) {
		what += fmt.Sprintf(" (%d)", refused.status)
		if refused.status == http.StatusInternalServerError && !strings.HasPrefix(what, "run") {
			o.record.note(func() { o.record.broken = append(o.record.broken, what+": "+err.Error()) })
		}
	} else if err != nil {
		what += " (no answer)"
	}
	o.deeds[what]++
}

func (o *operator) String() string {
	return fmt.Sprintf("%d reloads, the slowest took %s; %v", o.reloads, o.slowest.Round(time.Millisecond), o.deeds)
}

// must counts an action that must not fail.
func (o *operator) must(what string, err error) {
	if err != nil {
		o.record.note(func() { o.record.broken = append(o.record.broken, what+": "+err.Error()) })
	}
	o.did(what, err)
}

// reload loads a config every 200 ms. Now and then it changes the number of slots of a lock.
func (o *operator) reload(ctx context.Context, random *rand.Rand) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, l := range o.arena.locks {
			if random.IntN(8) == 0 {
				o.slots[l.name] = l.slots[0] + random.IntN(l.slots[1]-l.slots[0]+1)
			}
		}
		if err := o.load(random); err != nil {
			o.record.note(func() { o.record.broken = append(o.record.broken, "reload: "+err.Error()) })
		}
	}
}

// load loads a config with the slots in o.slots.
func (o *operator) load(random *rand.Rand) error {
	begin := time.Now()
	err := o.arena.caddy.call("POST", "/load", config(o.arena.locks, random, o.slots), nil)
	end := time.Now()
	o.reloads++
	o.slowest = max(o.slowest, end.Sub(begin))
	o.record.note(func() {
		for name, n := range o.slots {
			o.record.limits[name] = append(o.record.limits[name], limit{begin, end, n})
		}
	})
	return err
}

// act gets the status of the locks again and again, and each time does something to one of them.
func (o *operator) act(ctx context.Context, random *rand.Rand) {
	for sleep(ctx, upTo(random, 200*time.Millisecond)) {
		all, err := o.arena.caddy.locks()
		if err != nil {
			o.did("look", err)
			continue
		}
		now := time.Now()
		o.record.note(func() {
			for name, s := range all {
				if id := s.newest(); id > 0 {
					o.record.sightings[name] = append(o.record.sightings[name], sighting{now, id})
				}
			}
		})
		l := o.arena.locks[random.IntN(len(o.arena.locks))]
		o.verb(ctx, l, all[l.name], random)
	}
}

// newest is the number of the newest connection, 0 if there is none.
func (s *status) newest() (id uint64) {
	for _, p := range slices.Concat(s.Holders, s.Waiters) {
		id = max(id, p.ID)
	}
	return id
}

func (o *operator) verb(ctx context.Context, l *arenaLock, s *status, random *rand.Rand) {
	post := func(what string) error {
		err := o.arena.caddy.call("POST", "/tcplock/locks/"+l.name+"/"+what, "", nil)
		o.did(what, err)
		return err
	}
	// later does the same in the background.
	later := func(what string) { o.all.Go(func() { _ = post(what) }) }
	o.mu.Lock()
	pausing := o.pausing[l] // then no other action may change the pause
	o.mu.Unlock()
	pause := func(f func()) {
		o.pauses(l, true)
		o.all.Go(func() {
			f()
			o.pauses(l, false)
		})
	}
	switch n := random.IntN(20); {
	case n < 6:
		if all := slices.Concat(s.Holders, s.Waiters); len(all) > 0 {
			o.kick(l, all[random.IntN(len(all))])
		}
	case n < 8 && !pausing:
		_ = post("pause?for=300ms")
	case n < 9 && !pausing:
		wait := upTo(random, 3*time.Second)
		pause(func() {
			if post("pause") == nil {
				begin := time.Now()
				sleep(ctx, wait)
				o.record.note(func() { o.record.paused[l.name] = append(o.record.paused[l.name], span{begin, time.Now()}) })
			}
			_ = post("resume")
		})
	case n < 10 && !pausing:
		pause(func() { _ = post("drain?for=500ms&wait=400ms") })
	case n < 12 && l.hooks != "":
		later("run?moment=idle&wait=1s")
	case n < 13 && l.hooks != "":
		later("run?moment=release&wait=1s")
	case n < 14 && l.run:
		_ = post("restart")
	}
}

func (o *operator) pauses(l *arenaLock, yes bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pausing[l] = yes
}

func (o *operator) kick(l *arenaLock, p connection) {
	begin := time.Now()
	err := o.arena.caddy.call("POST", fmt.Sprintf("/tcplock/locks/%s/kick?id=%d", l.name, p.ID), "", nil)
	o.did("kick", err)
	if refused := (*apiError)(nil); !errors.As(err, &refused) {
		o.record.note(func() {
			o.record.kicked[p.Client] = true
			if _, cut := o.record.cut[p.Client]; !cut {
				o.record.cut[p.Client] = begin
			}
		})
	}
}

// trouble closes listeners for a while, kills workers, and cuts the link.
func (o *operator) trouble(ctx context.Context, random *rand.Rand) {
	for sleep(ctx, upTo(random, 2*time.Second)) {
		wait := upTo(random, 800*time.Millisecond)
		switch random.IntN(3) {
		case 0:
			addrs := slices.Sorted(maps.Keys(o.arena.services))
			s := o.arena.services[addrs[random.IntN(len(addrs))]]
			o.record.note(func() { o.record.closed[s.lock] = true })
			s.close()
			sleep(ctx, wait)
			o.must("refuse", s.open())
		case 1:
			o.kill(random)
		case 2:
			o.must("cut", o.arena.far.connect(false))
			sleep(ctx, 5*wait)
			o.must("mend", o.arena.far.connect(true))
		}
	}
}

// kill kills the process of a worker.
func (o *operator) kill(random *rand.Rand) {
	all, err := o.arena.caddy.locks()
	if err != nil {
		o.did("look", err)
		return
	}
	var pids []int
	for _, l := range o.arena.locks {
		if !l.run {
			continue
		}
		for _, w := range all[l.name].Workers {
			if w.Process != nil && w.Process.State == "ready" && strings.Contains(commandLine(w.Process.PID), " worker ") {
				pids = append(pids, w.Process.PID)
			}
		}
	}
	if len(pids) > 0 {
		_ = syscall.Kill(pids[random.IntN(len(pids))], syscall.SIGKILL)
		o.did("kill", nil)
	}
}

// sleep waits for d. It returns false if ctx is done before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// rest waits for the actions in the background, and ends all pauses.
func (o *operator) rest(t *testing.T, random *rand.Rand) {
	t.Helper()
	o.all.Wait()
	o.slots = mostSlots(o.arena.locks)
	if err := o.load(random); err != nil {
		t.Errorf("the last reload: %v", err)
	}
	for _, l := range o.arena.locks {
		if err := o.arena.caddy.call("POST", "/tcplock/locks/"+l.name+"/resume", "", nil); err != nil {
			t.Errorf("the last resume: %v", err)
		}
	}
}
