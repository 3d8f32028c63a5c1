package caddytest

import (
	"encoding/json"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/inside"
)

// LockStats tells when a client stands in line: nothing that the client or the service sees
// tells that.
func LockStats(name string) (slots, held, waiting, leftOver int) {
	for _, l := range inside.Process.Locks() {
		if l.Name == name {
			slots, held, waiting, leftOver = l.Slots, l.Held, l.Waiting, l.LeftOver
		}
	}
	return slots, held, waiting, leftOver
}

// Clients is how many clients a lock remembers for their bounds.
func Clients(name string) (clients int) {
	for _, l := range inside.Process.Locks() {
		if l.Name == name {
			clients = l.Clients
		}
	}
	return clients
}

// Locks counts the locks that are in use.
func Locks() int { return len(inside.Process.Locks()) }

// Counted is how many connections the budget of descriptors counts.
func Counted() int { return inside.Process.Counted() }

// Draining is how many refused connections are waited for to take the end of their answer.
func Draining() int { return inside.Process.Draining() }

// Hubs counts the hubs of status pages that are in use.
func Hubs() int { return inside.Process.Hubs() }

// SetDescriptorLimit sets what the process may have for the time of a test. What the test before
// has left to end is waited for, for a while: it would be taken away from another budget than
// the one that it was added to.
func SetDescriptorLimit(n int64) (restore func()) {
	for end := time.Now().Add(Patience); inside.Process.Budget() != "" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return inside.Process.SetDescriptorLimit(n)
}

// SetListenFor sets how long a probe listens, for the time of a test.
func SetListenFor(d time.Duration) (restore func()) { return inside.Process.SetListenFor(d) }

// Status is what the admin API says about a lock, also where a config has that off.
func Status(t *testing.T, lock string) (status status.Lock) {
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
