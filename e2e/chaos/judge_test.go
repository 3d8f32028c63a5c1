//go:build chaos && linux

package chaos

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// judge checks the records of a round after all activity has ended. Each complaint begins with the
// name of its invariant. For each invariant only the first few complaints are reported.
type judge struct {
	t             *testing.T
	arena         *arena
	*records                         // complete
	before, after map[string]*status // the status of the locks before and after the round
	complaints    map[string]int
}

const toldOfEach = 5

func (j *judge) complain(invariant, format string, args ...any) {
	j.t.Helper()
	if j.complaints[invariant]++; j.complaints[invariant] <= toldOfEach {
		j.t.Errorf("%s: %s", invariant, fmt.Sprintf(format, args...))
	}
}

func (j *judge) judge() {
	j.complaints = make(map[string]int)
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, text := range slices.Concat(j.logged, j.broken) {
		j.complain("at once", "%s", text)
	}
	for _, l := range j.arena.locks {
		j.slots(l)
		if l.fifo || l.perHost > 0 {
			j.order(l)
		}
		j.arrivals(l)
		j.pauses(l)
		j.leftOvers(l)
		j.totals(l)
	}
	for _, hook := range j.alone {
		if others := j.present(j.lock(hook.lock), hook.others, hook.at); len(others) > 0 {
			j.complain("alone", "lock %s: while hook %s ran, %v were at the service, expected no connection", hook.lock, hook.hook, j.tellAll(others))
		}
	}
	for _, c := range j.clients {
		j.client(c)
	}
	for invariant, n := range j.complaints {
		if n > toldOfEach {
			j.t.Errorf("%s: %d times in all", invariant, n)
		}
	}
}

// letGo is the least time that a service has to close after its client has gone or was cut, before
// the next connection comes: 200 ms if the service goes on sending, 250 ms if it is silent.
const letGo = 190 * time.Millisecond

// cutBefore reports whether a client had gone, or was cut, so long before the moment at that its slot
// may have been handed on although the service had not closed.
func (j *judge) cutBefore(addr netip.AddrPort, at time.Time) bool {
	cut, ok := j.cut[addr]
	if !ok {
		if c := j.clients[addr]; c != nil && !c.stays() {
			cut, ok = c.end, !c.end.IsZero()
		}
	}
	return ok && at.Sub(cut) >= letGo
}

// present returns the connections of others that count as present at that moment. One does not count
// if the service has closed its sending side and still reads: it is done when the client is, or at
// once with linger 0. The last data of the client may still be on its way then.
func (j *judge) present(l *arenaLock, others []netip.AddrPort, at time.Time) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(others), func(addr netip.AddrPort) bool {
		c := j.clients[addr]
		done := c != nil && c.job.deed == halfDone && (l.linger == "0" || c.finished.Before(at))
		return done || j.cutBefore(addr, at)
	})
}

// slots: the service never has more connections than the lock has slots.
func (j *judge) slots(l *arenaLock) {
	for _, v := range j.visits[l.name] {
		most := j.limitAt(l, v.At)
		if l.service == "" {
			most = 1 // of each worker
		}
		if others := j.present(l, v.Others, v.At); len(others)+1 > most {
			j.complain("slots", "lock %s: %s came to the service where %v were, expected %d at most", l.name, j.tell(v.Client), j.tellAll(others), most)
		} else if l.perHost > 0 {
			same := slices.DeleteFunc(others, func(addr netip.AddrPort) bool { return addr.Addr() != v.Client.Addr() })
			if len(same)+1 > l.perHost {
				j.complain("share", "lock %s: %s came to the service where %v of the same host were, expected %d at most", l.name, j.tell(v.Client), j.tellAll(same), l.perHost)
			}
		}
	}
}

// limitAt is the highest number of slots that the lock may have had when a connection that came to
// the service at that moment got its slot, which was shortly before.
func (j *judge) limitAt(l *arenaLock, at time.Time) (most int) {
	before := l.slots[1] // the last one of the round before
	for _, limit := range j.limits[l.name] {
		if limit.end.Before(at.Add(-shortly)) {
			most, before = 0, 0 // this limit has replaced the ones before it
		}
		if limit.begin.Before(at) {
			most = max(most, limit.slots)
		}
	}
	return max(most, before)
}

const shortly = 2 * time.Second

// order: connections come to the service in the order in which they came to the lock: on keep/ that is the
// order in which the system accepted them, elsewhere the order of their numbers. Up to slots-1
// connections that got their slot earlier may still be on their way when another one arrives. If
// each host has a share, this holds for the connections of one host at one address of the lock.
func (j *judge) order(l *arenaLock) {
	lines, slots := make(map[string][]arrival), l.slots[1]
	for _, v := range j.visits[l.name] {
		e, ok := j.endings[v.Client]
		if !ok || e.Outcome != "served" {
			continue
		}
		way := ""
		if l.perHost > 0 {
			way, slots = v.Client.Addr().String()+" "+j.clients[v.Client].to, l.perHost
		}
		lines[way] = append(lines[way], arrival{e.Connection, v.Client})
	}
	for _, all := range lines {
		for i := range all {
			overtaken, later := 0, uint64(0)
			for _, other := range all[i+1 : min(len(all), i+1+200)] {
				if j.cameBefore(l, other, all[i]) {
					overtaken++
					later = other.id
				}
			}
			if overtaken > slots-1 {
				j.complain("order", "lock %s: connection %d of %s came to the service before %d others that had come to the lock before it (such as %d), expected at most %d",
					l.name, all[i].id, j.tell(all[i].addr), overtaken, later, slots-1)
			}
		}
	}
}

// arrival is a connection that was served.
type arrival struct {
	id   uint64
	addr netip.AddrPort
}

// cameBefore reports whether connection a must be served before b. On keep/ a client that connected
// shortly before another may reach the lock after it.
func (j *judge) cameBefore(l *arenaLock, a, b arrival) bool {
	if l.network == "" {
		return a.id < b.id
	}
	first, second := j.clients[a.addr], j.clients[b.addr]
	return first != nil && second != nil && first.at.Add(100*time.Millisecond).Before(second.begin)
}

// arrivals: the number of a connection is higher than all numbers that the admin API had shown before
// its client connected.
func (j *judge) arrivals(l *arenaLock) {
	seen := j.sightings[l.name] // in order of time
	for addr, e := range j.endings {
		c := j.clients[addr]
		if e.Lock != l.name || c == nil {
			continue
		}
		i, _ := slices.BinarySearchFunc(seen, c.begin, func(s sighting, begin time.Time) int { return s.at.Compare(begin) })
		if i > 0 && e.Connection <= seen[i-1].id {
			j.complain("arrivals", "connection %d was at lock %s before this one: %s", seen[i-1].id, l.name, j.tell(addr))
		}
	}
}

// pauses: no connection comes to the service while the lock is paused, except those that were on
// their way when the pause began.
func (j *judge) pauses(l *arenaLock) {
	for _, p := range j.paused[l.name] {
		for _, v := range j.visits[l.name] {
			if v.At.After(p.begin.Add(onTheWay+l.hookTime)) && v.At.Before(p.end) {
				j.complain("pauses", "lock %s was paused from %s to %s: %s came to the service", l.name, p.begin.Format(clock), p.end.Format(clock), j.tell(v.Client))
			}
		}
	}
}

const onTheWay = time.Second

// leftOvers: a service that never closes does not keep its slot for longer than hold_timeout. Only a
// connection that was cut can be left over.
func (j *judge) leftOvers(l *arenaLock) {
	most := l.hold + l.hookTime + slack/2
	for _, v := range j.visits[l.name] {
		handedOn, ok := j.leftOver[v.Client]
		switch {
		case ok && j.cut[v.Client].IsZero():
			j.complain("left over", "lock %s: this connection was not cut: %s", l.name, j.tell(v.Client))
		case l.hold > 0 && v.told() && v.Left.Sub(v.At) > most && (!ok || handedOn.Sub(v.At) > most) && j.clients[v.Client].job.deed == neverEnds:
			j.complain("left over", "lock %s: the slot was not handed on in time (at %s) from %s", l.name, handedOn.Format(clock), j.tell(v.Client))
		}
	}
}
