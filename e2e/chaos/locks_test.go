//go:build chaos && linux

package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

// arenaLock describes one lock of the arena: its route, its clients, and what must hold.
type arenaLock struct {
	name    string
	listen  []string // if more than one, the priority of each is its index
	network string   // of its listeners: keep/, or empty for Caddy's own
	service string   // its address; empty: the lock has workers
	workers []string
	run     bool // the workers are processes of the lock

	slots    [2]int // the least and the most
	fifo     bool   // the service must get the connections in order
	keep     bool   // always half_closed keep
	linger   string // empty: sometimes 0 and sometimes the default
	far      bool   // its clients are on the far side
	hosts    int    // how many addresses its clients share; 0: each has its own
	perHost  int    // max_per_client
	waiting  int    // the least max_waiting
	wait     time.Duration
	hold     time.Duration // hold_timeout; 0: none
	hooks    string
	hookTime time.Duration // how long the hooks of one connection may take

	kinds map[string]int // the kinds of clients by weight
	deeds map[string]int // the deeds of the service by weight
	pause time.Duration  // between two clients, on average
	busy  time.Duration  // how long the service needs for a client, on average

	relayed, proxied int // how many configs had which way out
}

const (
	base       = "127.0.0.1:"
	busyServer = base + "9999" // answers refused connections
)

// arenaLocks returns the locks under test. Each reload may change all their settings that are not
// fixed here.
func arenaLocks() []*arenaLock {
	allKinds := map[string]int{plain: 6, slow: 2, halfClose: 6, forgets: 4, silent: 1, resetting: 3, leaving: 2, lingering: 1}
	harmless := map[string]int{answers: 10, trickles: 2, halfDone: 2, hangsUp: 1, resets: 1}
	anything := map[string]int{answers: 15, trickles: 3, halfDone: 3, hangsUp: 1, resets: 1, neverEnds: 1}
	plainer := map[string]int{answers: 15, trickles: 4, hangsUp: 1, resets: 1, neverEnds: 1}
	return []*arenaLock{
		{ // always one slot
			name: "one", network: "keep/", listen: []string{base + "9001"}, service: base + "9101",
			linger: "1s", slots: [2]int{1, 1}, fifo: true, keep: true, waiting: 20, wait: 4 * time.Second,
			kinds: allKinds, deeds: harmless, pause: 50 * time.Millisecond, busy: 20 * time.Millisecond,
		},
		{ // a changing number of slots
			name: "many", listen: []string{base + "9002"}, service: base + "9102",
			slots: [2]int{1, 6}, fifo: true, waiting: 20, wait: 4 * time.Second, hold: 2 * time.Second,
			kinds: allKinds, deeds: plainer, pause: 40 * time.Millisecond, busy: 50 * time.Millisecond,
		},
		{ // workers with processes of the lock, which are killed
			name: "pool", network: "keep/", listen: []string{base + "9003"}, workers: []string{base + "9131", base + "9132", base + "9133"}, run: true,
			linger: "0", slots: [2]int{1, 3}, keep: true, waiting: 20, wait: 6 * time.Second, hold: 2 * time.Second,
			kinds: allKinds, deeds: anything, pause: 60 * time.Millisecond, busy: 30 * time.Millisecond,
		},
		{ // workers without processes, which refuse connections for a while
			name: "shared", network: "keep/", listen: []string{base + "9004"}, workers: []string{base + "9141", base + "9142"},
			linger: "1s", slots: [2]int{2, 2}, keep: true, waiting: 20, wait: 6 * time.Second, hold: 2 * time.Second,
			kinds: allKinds, deeds: anything, pause: 60 * time.Millisecond, busy: 30 * time.Millisecond,
		},
		{ // few hosts, each with a share, and two priorities
			name: "fair", network: "keep/", listen: []string{base + "9005", base + "9006"}, service: base + "9105",
			linger: "0", slots: [2]int{3, 3}, keep: true, waiting: 20, wait: 4 * time.Second, hosts: 4, perHost: 1,
			kinds: allKinds, deeds: harmless, pause: 60 * time.Millisecond, busy: 30 * time.Millisecond,
		},
		{ // hooks that fail and hang
			name: "hooked", listen: []string{base + "9007"}, service: base + "9107",
			linger: "1s", slots: [2]int{2, 2}, fifo: true, keep: true, waiting: 10, wait: 4 * time.Second, hold: 2 * time.Second,
			hooks: hooks(), hookTime: hookTime,
			kinds: allKinds, deeds: anything, pause: 150 * time.Millisecond, busy: 20 * time.Millisecond,
		},
		{ // clients behind a link that is cut
			name: "far", network: "keep/", listen: []string{nearAddress + ":9008"}, service: base + "9108", far: true,
			slots: [2]int{2, 2}, waiting: 20, wait: 4 * time.Second, hold: 2 * time.Second,
			kinds: map[string]int{plain: 6, slow: 2, halfClose: 4, forgets: 2, silent: 1, resetting: 2, vanishing: 3},
			deeds: plainer, pause: 100 * time.Millisecond, busy: 30 * time.Millisecond,
		},
	}
}

// mostSlots returns the most slots of each lock: a round begins and ends with them.
func mostSlots(locks []*arenaLock) map[string]int {
	slots := make(map[string]int)
	for _, l := range locks {
		slots[l.name] = l.slots[1]
	}
	return slots
}

// config returns a Caddyfile with all locks and random settings.
func config(locks []*arenaLock, random *rand.Rand, slots map[string]int) string {
	var text strings.Builder
	fmt.Fprintf(&text, "{\nadmin %s\npersist_config off\nskip_install_trust\nauto_https off\nstorage_clean_interval off\ngrace_period 1s\n", adminAddress)
	text.WriteString("log {\nformat json\nexclude admin.api\n}\nlayer4 {\n")
	for _, l := range locks {
		relayed, after := random.IntN(2) == 0, fmt.Sprintf("proxy %s {\nproxy_protocol v1\n}\n", l.upstream())
		if relayed {
			after = ""
			l.relayed++
		} else {
			l.proxied++
		}
		for i, listen := range l.listen {
			settings := l.settings(random, slots[l.name], relayed)
			if i > 0 {
				settings = fmt.Sprintf("tcplock {\nname %s\npriority %d\nrefuse {\nproxy %s\n}\n}", l.name, i, busyServer)
			}
			fmt.Fprintf(&text, "%s%s {\nroute {\n%s\n%s}\n}\n", l.network, listen, settings, after)
		}
	}
	text.WriteString("}\n}\n")
	return text.String()
}

func (l *arenaLock) upstream() string {
	if l.service == "" {
		return "{l4.tcplock.worker}"
	}
	return l.service
}

// settings returns the block of the lock.
func (l *arenaLock) settings(random *rand.Rand, slots int, relayed bool) string {
	var text strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) }
	if l.service == "" {
		say("tcplock {")
		say("workers %s", strings.Join(l.workers[:slots], " "))
	} else {
		say("tcplock %d {", slots)
	}
	say("name %s", l.name)
	if relayed {
		say("proxy_protocol v1")
		if l.service != "" {
			say("to %s", l.service)
		}
	}
	say("max_waiting %d", l.waiting+random.IntN(l.waiting))
	say("wait_timeout %s", l.wait/2+upTo(random, l.wait/2))
	switch {
	case l.linger != "":
		say("linger %s", l.linger)
	case random.IntN(2) == 0:
		say("linger 0")
	}
	if random.IntN(4) == 0 {
		say("settle 5ms")
	}
	if !l.keep && random.IntN(2) == 0 {
		say("half_closed drop")
	}
	if l.perHost > 0 {
		say("max_per_client %d", l.perHost)
	}
	if l.hold > 0 {
		say("hold_timeout %s", l.hold/2+upTo(random, l.hold/2))
	}
	if l.hooks != "" {
		say("%s", l.hooks)
	}
	if l.run {
		self, _ := os.Executable()
		say("service %s worker {l4.tcplock.worker} {\nrestart every 25\nstop_timeout 1s\n}", self)
	}
	say("drain 5s")
	say("refuse {\nproxy %s\n}", busyServer)
	say("}")
	return text.String()
}

// budget is the longest time until a client has its answer.
func (l *arenaLock) budget() time.Duration {
	hold := l.hold
	if hold == 0 {
		hold = 3 * time.Second // the slowest client with the slowest service
	}
	return l.wait + l.hookTime + hold + slack
}

const (
	slack    = 20 * time.Second // for a machine that is busy with other things
	patience = 60 * time.Second // how long to wait for what must happen
)

// pick draws a random name by weight.
func pick(random *rand.Rand, weights map[string]int, order []string) string {
	sum := 0
	for _, weight := range weights {
		sum += weight
	}
	n := random.IntN(sum)
	for _, name := range order {
		if n -= weights[name]; n < 0 {
			return name
		}
	}
	panic("a weight has no name")
}

var (
	kindOrder = []string{plain, slow, halfClose, forgets, silent, resetting, leaving, lingering, vanishing}
	deedOrder = []string{answers, trickles, halfDone, hangsUp, resets, neverEnds}
)

// upTo returns a random time of less than d.
func upTo(random *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(d)))
}

// script returns a new random client of the lock.
func (l *arenaLock) script(random *rand.Rand, number int) *client {
	c := &client{lock: l.name, kind: pick(random, l.kinds, kindOrder), stay: upTo(random, 400*time.Millisecond)}
	c.job = job{number: number, deed: pick(random, l.deeds, deedOrder), in: random.IntN(2000), out: random.IntN(5000)}
	c.job.delay = time.Duration(random.ExpFloat64() * float64(l.busy))
	c.job.delay = min(c.job.delay, 20*l.busy)
	if random.IntN(10) == 0 { // more than the buffers on the way hold
		c.job.in, c.job.out = c.job.in*200, c.job.out*200
	}
	switch c.kind {
	case halfClose:
		c.job.fin = true
	case forgets:
		c.job.fin = true
		if c.job.deed == halfDone || c.job.deed == resets { // either could reset it while it sends
			c.job.deed = answers
		}
	case lingering:
		c.stay *= 8
	}
	if c.job.deed == neverEnds {
		c.job.delay = time.Second + upTo(random, 3*time.Second)
		if random.IntN(5) == 0 {
			c.job.delay = time.Hour // that is, until the end of the round
		}
	}
	return c
}
