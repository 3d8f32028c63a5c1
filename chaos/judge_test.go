//go:build chaos && linux

package chaos

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// judge looks at the records of a round, when all has gone quiet. Each invariant has a
// name, which its complaints begin with; of each the first few are told.
type judge struct {
	t             *testing.T
	arena         *arena
	*records                         // nobody writes to them any more
	before, after map[string]*status // the round
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
	for _, text := range j.broken {
		j.complain("at once", "%s", text)
	}
	for _, l := range j.arena.locks {
		j.slots(l)
		if l.fifo {
			j.order(l)
		}
		j.arrivals(l)
		j.totals(l)
	}
	for _, hook := range j.alone {
		if others := j.present(j.lock(hook.lock), hook.others, hook.at); len(others) > 0 {
			j.complain("alone", "lock %s: while hook %s ran, %v were at the service, expected nobody", hook.lock, hook.hook, j.tellAll(others))
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

// letGo is how long a service has at least, after its client has gone or was cut, before
// the next one comes: 200 ms if it talks on, 250 ms if it is silent.
const letGo = 190 * time.Millisecond

// cutBefore reports whether a client had gone, or been cut, so long before the moment that
// its slot may have been handed on although the service had not let go of it.
func (j *judge) cutBefore(addr netip.AddrPort, at time.Time) bool {
	cut, ok := j.cut[addr]
	if !ok {
		if c := j.clients[addr]; c != nil && !c.stays() {
			cut, ok = c.end, !c.end.IsZero()
		}
	}
	return ok && at.Sub(cut) >= letGo
}

// present are those of others who count at that moment. With linger 0, the end of a
// service's answer is the end, even if it reads on: so it has asked for it.
func (j *judge) present(l *arenaLock, others []netip.AddrPort, at time.Time) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(others), func(addr netip.AddrPort) bool {
		c := j.clients[addr]
		return l.linger == "0" && c != nil && c.job.deed == halfDone || j.cutBefore(addr, at)
	})
}

// slots: never more at the service than there are slots.
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

// limitAt is the most that may have been in force when a connection came to the service
// at that moment. It was granted its slot shortly before.
func (j *judge) limitAt(l *arenaLock, at time.Time) (most int) {
	before := l.slots[1] // the last one of the round before
	for _, limit := range j.limits[l.name] {
		if limit.end.Before(at.Add(-shortly)) {
			most, before = 0, 0 // the ones before it are in force no more
		}
		if limit.begin.Before(at) {
			most = max(most, limit.slots)
		}
	}
	return max(most, before)
}

const shortly = 2 * time.Second

// order: those who stay come to the service in the order in which they came to the lock.
// Of those who were granted a slot before another, at most slots-1 can be on their way
// when that one arrives.
func (j *judge) order(l *arenaLock) {
	type arrival struct {
		id   uint64
		addr netip.AddrPort
	}
	var all []arrival
	for _, v := range j.visits[l.name] {
		if e, ok := j.endings[v.Client]; ok && e.Outcome == "served" {
			all = append(all, arrival{e.Connection, v.Client})
		}
	}
	later := uint64(0)
	for i := len(all) - 1; i >= 0; i-- {
		overtaken := 0
		for _, other := range all[i+1 : min(len(all), i+1+200)] {
			if other.id < all[i].id {
				overtaken++
				later = other.id
			}
		}
		if overtaken > l.slots[1]-1 {
			j.complain("order", "lock %s: connection %d of %s came to the service before %d others who had come to the lock before it (such as %d), expected at most %d",
				l.name, all[i].id, j.tell(all[i].addr), overtaken, later, l.slots[1]-1)
		}
	}
}

// arrivals: who came to the lock later has a higher number than all that were seen there
// before it even connected.
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

// totals: whoever has arrived has ended, each in one way, and the log, the admin API and
// the clients tell the same of it.
func (j *judge) totals(l *arenaLock) {
	last, logged := uint64(0), make(map[string]int)
	for addr, e := range j.endings {
		if e.Lock != l.name {
			continue
		}
		last = max(last, e.Connection)
		logged[e.Outcome]++
		if j.clients[addr] == nil {
			j.complain("totals", "lock %s: connection %d of %s has ended, but there is no such client", l.name, e.Connection, addr)
		}
	}
	after, before := j.after[l.name], j.before[l.name]
	if ended := after.ended(); uint64(ended) != last {
		j.complain("totals", "lock %s: %d connections have arrived, %d have ended: %v", l.name, last, ended, after.Connections)
	}
	logless := 0
	for outcome, n := range after.Connections {
		missing := n - before.Connections[outcome] - logged[outcome]
		logless += missing
		if always[outcome] && missing != 0 || missing < 0 {
			j.complain("totals", "lock %s: %d have ended with %s in this round, %d in the log", l.name, n-before.Connections[outcome], outcome, logged[outcome])
		}
	}
	if logless != j.unlogged[l.name] {
		j.complain("totals", "lock %s: %d endings are not in the log, expected %d", l.name, logless, j.unlogged[l.name])
	}
	connected := 0
	for _, c := range j.clients {
		if c.lock == l.name && c.connected {
			connected++
		}
	}
	if arrived := after.ended() - before.ended(); arrived != connected {
		j.complain("totals", "lock %s: %d clients have connected, %d have arrived", l.name, connected, arrived)
	}
}

// always are the outcomes that always have a line in the log: of those who had a slot.
var always = map[string]bool{"served": true, "hold_timeout": true, "service_error": true}

// client: what one client has seen fits what the lock and the service tell of it.
func (j *judge) client(c *client) {
	e, logged := j.endings[c.addr]
	v, l := j.byClient[c.addr], j.lock(c.lock)
	complain := func(invariant string) { j.complain(invariant, "%s", j.tell(c.addr)) }
	switch {
	case c.saw == sawNoEnd:
		complain("budgets")
	case e.Outcome == "kicked" && !j.kicked[c.addr]:
		complain("kicks: nobody has kicked this one")
	case e.Outcome == "wait_timeout" && e.Waited < (l.wait/2).Seconds():
		complain("times: refused before wait_timeout was over")
	case e.Outcome == "hold_timeout" && e.Held < (l.hold/2).Seconds():
		complain("times: cut before hold_timeout was over")
	case c.saw == sawNobody && !l.far:
		complain("connects")
	case c.saw == sawAnswer && (v == nil || v.told() && !v.Answered):
		complain("answers: one that the service did not give")
	case c.saw == sawAnswer && logged && e.Outcome != "served" && e.Outcome != "kicked" && e.Outcome != "hold_timeout":
		complain("answers: one that the lock knows nothing of")
	case c.saw == sawRefusal && v != nil:
		complain("answers: a refusal after a visit")
	case c.stays() && v != nil && v.Answered && e.Outcome == "served" && c.saw != sawAnswer:
		complain("answers: not the whole")
	}
	// One that the service has not accepted is reset when the listener is closed.
	if e.Outcome == "served" && v == nil && !l.run && !j.closed[l.name] {
		complain("answers: served without a service")
	}
	if c.job.fin && c.sent && l.keep {
		switch {
		case e.Outcome == "client_gone":
			complain("jobs: a half-closing client is taken for gone")
		case e.Outcome == "served" && v != nil && v.told() && !v.Whole && !j.spoils(c):
			complain("jobs: lost")
		}
	}
}

// spoils reports whether the service may end before it has read the job: it closes its
// side first, and with linger 0 that is the end.
func (j *judge) spoils(c *client) bool { return c.job.deed == halfDone || c.job.deed == neverEnds }

func (j *judge) lock(name string) *arenaLock {
	i := slices.IndexFunc(j.arena.locks, func(l *arenaLock) bool { return l.name == name })
	return j.arena.locks[i]
}

// tell says all that is known of a client.
func (j *judge) tell(addr netip.AddrPort) string {
	c := j.clients[addr]
	if c == nil {
		return addr.String()
	}
	text := fmt.Sprintf("client %d (%s, lock %s, %s, %s, delay %s, in %d, out %d, from %s to %s: connected %t, sent %t, saw %s, error %v)", c.job.number, addr, c.lock, c.kind,
		c.job.deed, c.job.delay, c.job.in, c.job.out, c.begin.Format(clock), c.end.Format(clock), c.connected, c.sent, c.saw, c.err)
	if e, ok := j.endings[addr]; ok {
		text += fmt.Sprintf(", in the log %+v", e)
	}
	if cut, ok := j.cut[addr]; ok {
		text += ", cut at " + cut.Format(clock)
	}
	if v := j.byClient[addr]; v != nil {
		text += fmt.Sprintf(", at the service from %s to %s, whole %t, answered %t", v.At.Format(clock), v.Left.Format(clock), v.Whole, v.Answered)
	}
	return text
}

const clock = "05.000000"

func (j *judge) tellAll(addrs []netip.AddrPort) (all []string) {
	for _, addr := range addrs {
		all = append(all, j.tell(addr))
	}
	return all
}

// String counts what has happened.
func (r *records) String() string {
	saw := make(map[string]int)
	for _, c := range r.clients {
		saw[c.saw]++
	}
	outcomes := make(map[string]int)
	for _, e := range r.endings {
		outcomes[e.Outcome]++
	}
	return fmt.Sprintf("%d clients saw %v; in the log %v", len(r.clients), saw, outcomes)
}
