package line_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Each handler looked at all servers of the config, and a thousand took seconds.
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

// The file descriptors are used up by the line. Who comes then still gets to the refuse
// handlers, which need one descriptor more.
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
