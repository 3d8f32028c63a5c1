package caddytest

import (
	"encoding/json"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/inside"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// lockInUse returns a lock, the zero value if it is not in use. A test needs it to know that a client
// is in line: the client and the service cannot see that.
func lockInUse(name string) (lock inside.Lock) {
	for _, l := range inside.Process.Locks() {
		if l.Name == name {
			lock = l
		}
	}
	return lock
}

// LockStats returns the counts of a lock, all 0 if it is not in use.
func LockStats(name string) (slots, held, waiting, leftOver int) {
	l := lockInUse(name)
	return l.Slots, l.Held, l.Waiting, l.LeftOver
}

// Clients is how many clients a lock remembers for max_per_client.
func Clients(name string) int { return lockInUse(name).Clients }

// Locks counts the locks that are in use.
func Locks() int { return len(inside.Process.Locks()) }

// Counted is how many connections the budget of descriptors counts.
func Counted() int64 { return inside.Process.Budget().Connections }

// Draining is how many refused connections wait until the client has the end of the answer.
func Draining() int64 { return inside.Process.Budget().Draining }

// Hubs counts the locks with an open status page.
func Hubs() int { return inside.Hubs() }

// SetDescriptorLimit sets how many descriptors the process may have, until restore is called. Before
// that it waits until nothing of the test before is counted.
func SetDescriptorLimit(n int64) (restore func()) {
	for end := time.Now().Add(Patience); inside.Process.Budget() != (inside.Budget{}) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return inside.Process.SetDescriptorLimit(n)
}

// SetListenFor sets how long a probe listens, until restore is called.
func SetListenFor(d time.Duration) (restore func()) { return inside.Process.SetListenFor(d) }

// SetLongestOutage sets how long waiters without a wait_timeout wait for a service that cannot be reached.
func SetLongestOutage(d time.Duration) { inside.Process.SetLongestOutage(d) }

// Status returns what the admin API says about a lock. It works even if the API is off.
func Status(t testing.TB, lock string) (status status.Lock) {
	t.Helper()
	info, err := caddy.GetModule("admin.api.tcplock")
	if err != nil {
		t.Fatal(err)
	}
	answer := httptest.NewRecorder()
	err = info.New().(caddy.AdminRouter).Routes()[0].Handler.ServeHTTP(answer, httptest.NewRequest("GET", "/tcplock/locks/"+lock, nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &status); err != nil {
		t.Fatal(err)
	}
	return status
}
