//go:build chaos && linux

package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// hooks returns the hooks of the lock hooked. Their commands ask the test what to do.
func hooks() string {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`on activate {
every 3
exec %[1]s hook activate {
timeout 1s
}
}
on activate {
every 20
exclusive 2s
retry 1 50ms
exec %[1]s hook exclusive {
timeout 1s
}
}
on release {
every 5
exec %[1]s hook release {
timeout 1s
}
}
on timeout exec %[1]s hook timeout {
timeout 1s
}
on refuse {
every 1s
exec %[1]s hook refuse {
timeout 1s
}
}
on idle 1h exec %[1]s hook run {
timeout 1s
}`, self)
}

// hookTime is how long these hooks may take for one connection: the two activate hooks, of which one
// waits for exclusive access and tries again, and the release hook.
const hookTime = time.Second + 2*time.Second + 2*time.Second + time.Second

// verdicts decides whether hooks succeed.
type verdicts struct {
	mu      sync.Mutex
	random  *rand.Rand
	given   map[string]int
	lenient bool // no hook fails
}

func (v *verdicts) setLenient(lenient bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lenient = lenient
}

// judgeHook records the connections at the service, if the hook must run alone. It returns the
// verdict for the hook; "" lets the hook hang.
func (a *arena) judgeHook(record *records, r report) (verdict string) {
	lock, hook := r.Lock, r.Hook
	a.verdicts.mu.Lock()
	verdict = "ok"
	switch n := a.verdicts.random.IntN(20); {
	case a.verdicts.lenient:
	case n < 3:
		verdict = "fail"
	case n < 4:
		verdict = "" // the hook hangs until its timeout
	}
	stays := upTo(a.verdicts.random, 30*time.Millisecond)
	a.verdicts.given[hook+" "+verdict]++
	a.verdicts.mu.Unlock()

	i := slices.IndexFunc(a.locks, func(l *arenaLock) bool { return l.name == lock })
	look := func() {
		now, others := time.Now(), a.services[a.locks[i].service].count()
		if unix.Kill(r.PID, 0) != nil {
			return // the hook timed out before this look, so other connections may be there
		}
		record.note(func() { record.alone = append(record.alone, alone{lock, hook, now, others}) })
	}
	mustBeAlone := hook == "exclusive" || hook == "run"
	if mustBeAlone {
		look()
	}
	time.Sleep(stays)
	if mustBeAlone {
		look()
	}
	return verdict
}
