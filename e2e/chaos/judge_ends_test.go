//go:build chaos && linux

package chaos

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// totals: each connection that has come to the lock has ended, with one outcome. The log, the admin
// API and the clients agree on the numbers.
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
	lost := connected - (after.ended() - before.ended())
	switch {
	case l.network == "" && lost > 0 && lost <= mostLost:
		j.t.Logf("lock %s: reloads have lost %d of %d connections at a listener of Caddy's own", l.name, lost, connected)
	case lost != 0:
		j.complain("totals", "lock %s: %d of %d connections are lost", l.name, lost, connected)
	}
}

// mostLost bounds the connections that the reloads of one round may lose at a listener of Caddy's own.
const mostLost = 5

// always has the outcomes that always have a line in the log: those of connections with a slot.
var always = map[string]bool{"served": true, "hold_timeout": true, "service_error": true}

// client: what one client saw agrees with the records of the lock and the service.
func (j *judge) client(c *client) {
	e, logged := j.endings[c.addr]
	v, l := j.byClient[c.addr], j.lock(c.lock)
	complain := func(invariant string) { j.complain(invariant, "%s", j.tell(c.addr)) }
	switch {
	case c.saw == sawNoEnd:
		complain("budgets")
	case e.Outcome == "kicked" && !j.kicked[c.addr]:
		complain("kicks: no operator has kicked this one")
	case e.Outcome == "wait_timeout" && e.Waited < (l.wait/2).Seconds():
		complain("times: refused before wait_timeout was over")
	case e.Outcome == "hold_timeout" && e.Held < (l.hold/2).Seconds():
		complain("times: cut before hold_timeout was over")
	case v != nil && !l.far && (c.kind == silent || c.kind == resetting) && v.At.Sub(c.end) > 2*onTheWay+l.hookTime:
		complain("dead: came to the service")
	case e.Outcome == "client_gone" && !l.far && e.At.Sub(c.end) > 2*onTheWay+l.hookTime &&
		(e.Slot != 0 || e.Waited > (2*onTheWay).Seconds()): // otherwise it was accepted late, and the lock could not know of it
		complain("dead: it took long to notice")
	case c.saw == sawNoLock && !l.far && (l.network != "" || !errors.Is(c.err, syscall.ECONNRESET)): // a reload resets some of Caddy's own listeners
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
	// When the service closes its listener, the system resets connections that were not accepted.
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

// spoils reports whether the service may end before it has read the whole job. A service that closes
// its sending side first ends at once with linger 0.
func (j *judge) spoils(c *client) bool { return c.job.deed == halfDone || c.job.deed == neverEnds }

func (j *judge) lock(name string) *arenaLock {
	i := slices.IndexFunc(j.arena.locks, func(l *arenaLock) bool { return l.name == name })
	return j.arena.locks[i]
}

// tell describes all that is known about a client.
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

// String returns the numbers of a round.
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
