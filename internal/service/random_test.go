package service

import (
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Clients, requests, reloads and crashes come at random moments. The stage checks that there is never a
// second process, and that no process is ended while it has a client. In the end the slot is granted
// again.
func TestSupervisorAtRandom(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			spec := &Service{Start: "lazy", RestartEvery: 5, RestartInterval: 20 * second, StopIdle: 4 * second, MaxMemory: 1}
			s := &stage{t: t, began: time.Now(), readyAfter: time.Second}
			s.Supervisor = Supervise(s.launch, spec, ID{}, s, zap.NewNop, nil)
			s.Run()
			var clients sync.WaitGroup
			for range 300 {
				time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
				reaches := random.IntN(4) > 0
				stay := time.Duration(random.IntN(3000)) * time.Millisecond
				switch random.IntN(8) {
				case 0:
					s.Restart(status.RestartRequest)
				case 1:
					replaced := *spec
					replaced.Command = strings.Repeat("x", random.IntN(3))
					s.Replace(&replaced)
				case 2:
					synctest.Wait()
					if p := s.last(); p != nil {
						s.let(func() { p.clean = random.IntN(2) == 0 })
						p.exit()
					}
				default:
					if s.grant() {
						clients.Go(func() {
							if s.reach() == nil {
								time.Sleep(stay)
							}
							s.Ended(reaches, reaches)
							s.vacate()
						})
					}
				}
			}
			clients.Wait()
			time.Sleep(3 * time.Minute)
			s.serve(time.Second)
			s.let(func() { s.ends = true })
			s.stop()
			if t.Failed() {
				t.Fatalf("seed %d:\n%s", seed, strings.Join(s.trace, "\n"))
			}
		})
	}
}
