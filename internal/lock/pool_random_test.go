package lock_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/seed-4dbef00f/caddy-tcplock/hook"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/service"
)

// At random moments come: clients of several addresses and priorities, reloads from any settings to
// any others, crashes, workers that cannot be reached for a while, pauses, requests to restart, and
// exclusive hooks. The stage checks that no two processes meet, and that no process ends while it
// has a client. In the end all workers serve.
func TestPoolAtRandom(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for seed := range uint64(100) {
		playPool(t, func(s *poolStage) {
			random := rand.New(rand.NewPCG(seed, 0))
			s.load(randomSettings(random), randomHooks(s, random)...)
			for i := range 200 {
				time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
				if random.IntN(4) > 0 {
					synctest.Wait()
				}
				s.anything(random, i)
			}
			s.lock.Resume()
			s.let(func() { s.endsAfter, s.readyAfter, s.deaf, s.down = 0, 0, false, make(map[string]bool) })
			n := len(addresses)
			last := []lock.Settings{withService(service.Service{}, addresses...), {Workers: addresses}, {Slots: n, Service: &service.Service{}}, {Slots: n}}[seed%4]
			s.load(last)
			s.until(time.Since(s.start) + time.Hour)
			if workers := s.lock.Status(0).Workers; last.Pooled() && len(workers) != n || !last.Pooled() && len(workers) > 0 {
				t.Errorf("found workers %+v at the end, expected only those of the config", workers)
			}
			for i := range addresses {
				s.comes(guest{name: fmt.Sprint("last", i), stays: time.Minute})
			}
			s.until(time.Since(s.start) + time.Second)
			if held := s.lock.Queue().Stats().Held; held != n {
				t.Errorf("found %d clients that are served at the end, expected %d: %+v", held, n, s.lock.Status(0).Workers)
			}
			if t.Failed() {
				t.Fatalf("seed %d:\n%s", seed, strings.Join(s.said, "\n"))
			}
		})
	}
}

var addresses = []string{"a:1", "a:2", "b:1", "b:2"}

func randomSettings(random *rand.Rand) (s lock.Settings) {
	seconds := func(ns ...int) caddy.Duration {
		return caddy.Duration(ns[random.IntN(len(ns))]) * caddy.Duration(time.Second)
	}
	if random.IntN(4) == 0 {
		s.Slots = random.IntN(4)
	} else {
		s.Workers = slices.Clone(addresses)
		random.Shuffle(len(addresses), func(i, j int) { s.Workers[i], s.Workers[j] = s.Workers[j], s.Workers[i] })
		s.Workers = s.Workers[:1+random.IntN(len(addresses))]
	}
	if random.IntN(4) > 0 {
		s.Service = &service.Service{
			Command:         []string{"x", "y"}[random.IntN(2)],
			Start:           []string{service.StartEager, service.StartLazy}[random.IntN(2)],
			Ready:           []string{"", "z:1"}[random.IntN(2)],
			RestartEvery:    random.IntN(4),
			RestartInterval: seconds(0, 0, 15),
			StopIdle:        seconds(0, 0, 5),
		}
	}
	s.HoldTimeout = seconds(0, 8)
	s.WaitTimeout = seconds(0, 0, 20)
	s.PriorityAge = seconds(0, 2)
	s.MaxPerClient = random.IntN(3)
	s.Settle = seconds(0, 0, 1)
	return s
}

func randomHooks(s *poolStage, random *rand.Rand) (hooks []*hook.Hook) {
	if random.IntN(3) == 0 {
		hooks = append(hooks, s.hook(hook.Hook{On: hook.Activate, Every: hook.Every{Count: 5}, Exclusive: true}, &fakeStep{name: "alone", takes: time.Second}))
	}
	if random.IntN(3) == 0 {
		hooks = append(hooks, s.hook(hook.Hook{On: hook.Idle, IdleFor: caddy.Duration(2 * time.Second)}, &fakeStep{name: "idle", takes: time.Second}))
	}
	if random.IntN(3) == 0 {
		hooks = append(hooks, s.hook(hook.Hook{On: hook.Release}, &fakeStep{name: "release", takes: time.Second}))
	}
	return hooks
}

func (s *poolStage) anything(random *rand.Rand, i int) {
	switch random.IntN(20) {
	case 0, 1, 2:
		settings := randomSettings(random)
		s.say(fmt.Sprintf("reload: %d slots, workers %v, service %+v", settings.Slots, settings.Workers, settings.Service))
		s.load(settings, randomHooks(s, random)...)
	case 3:
		s.let(func() {
			s.readyAfter, s.endsAfter = time.Duration(random.IntN(3000))*time.Millisecond, time.Duration(random.IntN(5000))*time.Millisecond
			s.deaf = random.IntN(5) == 0
		})
	case 4:
		s.let(func() { s.down[addresses[random.IntN(len(addresses))]] = random.IntN(2) == 0 })
	case 5, 6:
		var crashes *actor
		s.let(func() {
			if n := len(s.processes); n > 0 {
				crashes = s.processes[n-1-random.IntN(min(n, 4))]
			}
		})
		if crashes != nil {
			crashes.exit([]error{nil, errCrash}[random.IntN(2)])
		}
	case 7:
		s.lock.Restart(random.IntN(5))
	case 8:
		s.lock.Pause(time.Duration(1+random.IntN(5)) * time.Second)
	default:
		g := guest{name: fmt.Sprint(i), stays: time.Duration(random.IntN(6000)) * time.Millisecond, wedges: random.IntN(5) == 0, priority: random.IntN(3)}
		if random.IntN(2) == 0 {
			g.ip = fmt.Sprintf("192.0.2.%d", random.IntN(3))
		}
		if random.IntN(4) == 0 {
			g.fails = errCrash
		}
		s.comes(g)
	}
}
