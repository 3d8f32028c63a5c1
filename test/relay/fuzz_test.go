package relay_test

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Whatever client and service do, what arrives is what was sent, and the slot comes back: see the model. The
// first byte chooses the lock.
func FuzzRelay(f *testing.F) {
	stages := open(f)
	random := rand.New(rand.NewPCG(1, 0))
	for i := range 2 * len(stages) {
		f.Add(append([]byte{byte(i)}, randomBytes(random)...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		st := stages[int(data[0])%len(stages)]
		st.t = t
		caddytest.LeakCheck(t)
		st.play(newSchedule(data[1:], st.way))
	})
}

// The same, with many schedules at once.
func TestRandomSchedules(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	stages := open(t)
	caddytest.LeakCheck(t)
	var all sync.WaitGroup
	for i, st := range stages {
		all.Go(func() {
			random := rand.New(rand.NewPCG(2, uint64(i%(len(stages)/len(ways))))) // the same on all ways
			for i := 0; i < schedules && st.play(newSchedule(randomBytes(random), st.way)); i++ {
			}
		})
	}
	all.Wait()
}

const schedules = 120

func randomBytes(random *rand.Rand) []byte {
	data := make([]byte, 3+random.IntN(1+random.IntN(2*mostSteps)))
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	return data
}
