package line_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// What a lock costs does not grow with the number of locks: no handler searches all servers of
// the config.
func TestLockCostsTheSameAmongMany(t *testing.T) {
	allocations := func(locks int) uint64 {
		var servers strings.Builder
		for i := range locks {
			fmt.Fprintf(&servers, "127.0.0.1:%d {\nroute {\ntcplock {\nname lock%d\n}\nproxy 127.0.0.1:1\n}\n}\n", 1000+i, i)
		}
		cfg := caddytest.ParseConfig(t, caddytest.Global("layer4 {\n"+servers.String()+"}"))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := caddy.Validate(cfg); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.Mallocs - before.Mallocs
	}
	few, many := allocations(100), allocations(800)
	if many > 16*few {
		t.Errorf("found %d allocations for 800 locks, and %d for 100, expected them to grow with the number of locks", many, few)
	}
}

// The line has used up the file descriptors. A new client still gets to the refuse handlers,
// which need one descriptor more.
func TestRefuseHandlersAtDescriptorLimit(t *testing.T) {
	t.Cleanup(caddytest.SetDescriptorLimit(64 + 10)) // when Caddy has stopped
	svc := caddytest.NewService(t, nil)
	busy := caddytest.NewService(t, answerBusy)
	addr := caddytest.LockServer(t, "tcplock {\nlinger 0\nrefuse {\nproxy "+busy.Addr+"\n}\n}", svc.Addr)
	for range 9 {
		caddytest.Dial(t, addr)
	}
	caddytest.InLine(t, "default", 1, 8)
	expectRefused(t, addr, "busy!")
}
