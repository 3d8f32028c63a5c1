//go:build chaos && linux

package chaos

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	chaosFor  = flag.Duration("chaos.for", 20*time.Second, "how long clients come, in all rounds")
	chaosSeed = flag.Uint64("chaos.seed", 0, "of the random choices; 0: another one each time")
	keepLogs  = flag.String("chaos.logs", "", "directory for Caddy's log; default: a temporary one, kept if the test fails")
)

const longestRound = 30 * time.Second

// TestChaos runs rounds of random actions of clients, services and operators against a Caddy. After
// each round all activity ends. Then the records of the clients, the services, the operators and
// Caddy must agree, and nothing may be left.
func TestChaos(t *testing.T) {
	if end, ok := t.Deadline(); ok && time.Until(end) < *chaosFor*3/2+4*time.Minute {
		t.Fatalf("found %s until the test's deadline, expected more than half again as long as -chaos.for, and 4m: see -timeout", time.Until(end).Round(time.Second))
	}
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	if os.Getenv(arenaEnv) == "" {
		t.Logf("seed %d", seed)
		runInArena(t, fmt.Sprintf("-chaos.seed=%d", seed), caddyEnv+"="+buildCaddy(t))
		return
	}
	here, err := namespaceOf(os.Getpid()) // now, since later the first thread may be on the far side
	if err != nil {
		t.Fatal(err)
	}
	a := newArena(t, seed)
	for i := 0; *chaosFor > 0 && !t.Failed(); i++ {
		d := min(*chaosFor, longestRound)
		*chaosFor -= d
		a.round(t, i, d)
	}
	t.Logf("hooks: %v", a.verdicts.given)
	for _, l := range a.locks {
		t.Logf("lock %s: connects by itself in %d configs, through proxy in %d", l.name, l.relayed, l.proxied)
	}
	a.caddy.stop(t)
	for _, pid := range othersIn(here) {
		t.Errorf("left behind by Caddy: process %d, %s", pid, commandLine(pid))
	}
}

// arena has all parts of the test.
type arena struct {
	seed     uint64
	dir      string
	far      *farSide
	caddy    *caddy
	locks    []*arenaLock
	services map[string]*service
	record   atomic.Pointer[records] // of this round
	born     atomic.Int64
	before   map[string]*status // this round
	began    size
	verdicts verdicts
}

func newArena(t *testing.T, seed uint64) *arena {
	a := &arena{seed: seed, dir: *keepLogs, far: furnish(t), locks: arenaLocks(), services: make(map[string]*service)}
	if a.dir == "" {
		var err error
		if a.dir, err = os.MkdirTemp("", "tcplock-chaos"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, text := range a.record.Load().wrong(toldOfEach) { // in case the judge did not get to it
				t.Logf("in the last round: %s", text)
			}
			t.Logf("seed %d, log in %s", seed, a.dir)
		} else if *keepLogs == "" {
			os.RemoveAll(a.dir)
		}
	})
	a.record.Store(newRecords())
	a.verdicts = verdicts{random: a.random(0, 1000), given: make(map[string]int)}
	for _, l := range a.locks {
		addrs := l.workers
		switch {
		case l.run:
			continue
		case l.service != "":
			addrs = []string{l.service}
		}
		for _, addr := range addrs {
			s, err := newService(addr, l.name, func(v *visit) { a.record.Load().came(l.name, v) })
			if err != nil {
				t.Fatal(err)
			}
			a.services[addr] = s
		}
	}
	a.listen(t)
	t.Setenv(recorderEnv, a.recorder())
	refuse(t)
	random := rand.New(rand.NewPCG(seed, 0))
	var env []string
	if seed%2 != 0 { // connections wait in goroutines, as where they cannot be detached
		env = append(env, "CADDY_TCPLOCK_DETACH=off")
	}
	a.caddy = startCaddy(t, a.dir, config(a.locks, random, mostSlots(a.locks)), env, func(line []byte) { a.record.Load().seen(line) })
	a.round(t, -1, time.Second) // to warm up: what Caddy allocates once is in the size at the start
	a.began = a.settled(t)
	t.Logf("at the start: %s", a.began)
	return a
}

// refuse serves the refused connections.
func refuse(t *testing.T) {
	ln, err := net.Listen("tcp", busyServer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.WriteString(conn, refusal)
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			}()
		}
	}()
}

// round runs random actions for the time d, and then checks the records.
func (a *arena) round(t *testing.T, number int, d time.Duration) {
	record := newRecords()
	a.record.Store(record)
	a.before = a.status(t)
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var all sync.WaitGroup
	var crowds []*crowd
	for i, l := range a.locks {
		c := &crowd{lock: l, index: i, random: a.random(number, 2*i), record: record, born: &a.born}
		if l.far {
			c.far = a.far
		}
		crowds = append(crowds, c)
		all.Go(func() { c.come(ctx) })
	}
	op := &operator{arena: a, record: record, slots: mostSlots(a.locks), deeds: make(map[string]int), pausing: make(map[*arenaLock]bool)}
	all.Go(func() { op.reload(ctx, a.random(number, 1001)) })
	all.Go(func() { op.act(ctx, a.random(number, 1002)) })
	all.Go(func() { op.trouble(ctx, a.random(number, 1003)) })
	all.Wait()
	quiet := time.Now()
	op.rest(t, a.random(number, 1004))
	for _, c := range crowds {
		c.all.Wait()
	}
	a.verdicts.setLenient(true)
	a.last(t, crowds)
	a.verdicts.setLenient(false)
	after := a.rest(t)
	(&judge{t: t, arena: a, records: record, before: a.before, after: after}).judge()
	if number >= 0 {
		a.checkSize(t)
	}
	if number >= 0 {
		t.Logf("round %d: %s, quiet after %s: %s", number, record, time.Since(quiet).Round(time.Millisecond), op)
	}
}

// random returns the generator of one actor in a round.
func (a *arena) random(round, actor int) *rand.Rand {
	return rand.New(rand.NewPCG(a.seed, uint64(round+2)<<32|uint64(actor)))
}

func (a *arena) status(t *testing.T) map[string]*status {
	t.Helper()
	all, err := a.caddy.locks()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// last sends one plain client to each lock after all others have gone. It must be served, and the
// number of its connection tells how many have come to the lock.
func (a *arena) last(t *testing.T, crowds []*crowd) {
	for _, c := range crowds {
		n := int(a.born.Add(1))
		cl := &client{lock: c.lock.name, kind: plain, job: job{number: n, deed: answers}, addr: c.address(n), to: c.lock.listen[0]}
		c.record.note(func() { c.record.clients[cl.addr] = cl })
		if cl.run(c.far, patience); cl.saw != sawAnswer {
			t.Errorf("lock %s: the last client saw %s (%v), expected its answer", c.lock.name, cl.saw, cl.err)
		}
	}
}

// rest waits until all locks are empty and all records are complete. It returns the status of the
// locks.
func (a *arena) rest(t *testing.T) (all map[string]*status) {
	t.Helper()
	eventually(t, "all locks are vacant, and all endings in the log", func() (lacking string) {
		for _, s := range a.services {
			s.release()
		}
		all = a.status(t)
		record := a.record.Load()
		for _, s := range all {
			if s.Held+s.Waiting+s.LeftOver > 0 || s.Paused != nil {
				return fmt.Sprintf("%+v", *s)
			}
			for _, w := range s.Workers {
				if w.Process != nil && w.Process.State != "ready" {
					return fmt.Sprintf("lock %s: the process of slot %d is %s", s.Name, w.Slot, w.Process.State)
				}
			}
			logged, staying := 0, 0
			record.note(func() {
				for _, v := range record.visits[s.Name] {
					if v.stays() {
						staying++
					}
				}
				logged = record.unlogged[s.Name]
				for _, e := range record.endings {
					if e.Lock == s.Name {
						logged++
					}
				}
			})
			if ended := s.ended() - a.before[s.Name].ended(); staying > 0 || logged < ended {
				return fmt.Sprintf("lock %s: %d are at the service, %d have ended, %d in the log", s.Name, staying, ended, logged)
			}
		}
		return ""
	})
	return all
}

// settled returns the smallest of several sizes.
func (a *arena) settled(t *testing.T) (least size) {
	t.Helper()
	for i := range 5 {
		s, _, err := a.caddy.size()
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			least = s
		}
		least = size{min(least.goroutines, s.goroutines), min(least.descriptors, s.descriptors), min(least.heap, s.heap)}
		time.Sleep(100 * time.Millisecond)
	}
	return least
}

// checkSize checks that the process is no larger than at the start. Some difference is allowed,
// because Caddy itself has a few more or less of each from config to config.
func (a *arena) checkSize(t *testing.T) {
	t.Helper()
	most := size{a.began.goroutines + 5, a.began.descriptors + 2, a.began.heap + 8<<20}
	var s size
	var stacks []byte
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var err error
		if s, stacks, err = a.caddy.size(); err != nil {
			t.Fatal(err)
		}
		if s.goroutines <= most.goroutines && s.descriptors <= most.descriptors && s.heap <= most.heap {
			t.Logf("at the end: %s", s)
			return
		}
	}
	t.Errorf("leak: found %s, expected at most %s\n%s", s, most, stacks)
}

// eventually waits until check returns "".
func eventually(t *testing.T, what string, check func() (lacking string)) {
	t.Helper()
	var lacking string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if lacking = check(); lacking == "" {
			return
		}
	}
	t.Fatalf("did not come true in %s: %s: found %s", patience, what, lacking)
}
