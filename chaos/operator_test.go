//go:build chaos && linux

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// operator is all that is done to Caddy, the services and the net in one round.
type operator struct {
	arena  *arena
	record *records
	slots  map[string]int

	reloads int
	slowest time.Duration
	deeds   map[string]int
}

func (o *operator) String() string {
	return fmt.Sprintf("%d reloads, the slowest took %s; %v", o.reloads, o.slowest.Round(time.Millisecond), o.deeds)
}

// reload loads another config every 200 ms.
func (o *operator) reload(ctx context.Context, random *rand.Rand) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := o.load(random); err != nil {
			o.record.note(func() { o.record.broken = append(o.record.broken, "reload: "+err.Error()) })
		}
	}
}

// load loads a config, in which a lock has another number of slots now and then.
func (o *operator) load(random *rand.Rand) error {
	if o.slots == nil {
		o.slots = make(map[string]int)
	}
	for _, l := range o.arena.locks {
		if o.slots[l.name] == 0 || random.IntN(8) == 0 {
			o.slots[l.name] = l.slots[0] + random.IntN(l.slots[1]-l.slots[0]+1)
		}
	}
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

// rest ends what goes on by itself, so that all can go quiet.
func (o *operator) rest(t *testing.T, random *rand.Rand) {
	t.Helper()
	if err := o.load(random); err != nil {
		t.Errorf("the last reload: %v", err)
	}
}
