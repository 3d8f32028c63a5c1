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

// hooks are those of lock hooked. Their commands ask the test what to do.
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

// hookTime is how long these can take for one connection: to activate it, first alone and
// then not, and to release it.
const hookTime = time.Second + 2*time.Second + 2*time.Second + time.Second

// verdicts decides what hooks do.
type verdicts struct {
	mu     sync.Mutex
	random *rand.Rand
	given  map[string]int
	kind   bool // nothing fails, for a while
}

func (v *verdicts) setKind(kind bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.kind = kind
}

// judgeHook looks whether the hook is alone, if it has to be, and returns its verdict:
// none to let it hang.
func (a *arena) judgeHook(record *records, r report) (verdict string) {
	lock, hook := r.Lock, r.Hook
	a.verdicts.mu.Lock()
	verdict = "ok"
	switch n := a.verdicts.random.IntN(20); {
	case a.verdicts.kind:
	case n < 3:
		verdict = "fail"
	case n < 4:
		verdict = "" // it is killed when its time is over
	}
	stays := upTo(a.verdicts.random, 30*time.Millisecond)
	a.verdicts.given[hook+" "+verdict]++
	a.verdicts.mu.Unlock()

	i := slices.IndexFunc(a.locks, func(l *arenaLock) bool { return l.name == lock })
	look := func() {
		now, others := time.Now(), a.services[a.locks[i].service].count()
		if unix.Kill(r.PID, 0) != nil {
			return // its time was over before this look was: others may come again
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
