package places_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A variable of the config has the lock's name. The placeholders still work.
func TestVariableNamedTcplock(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.LockServer(t, "tcplock {\nlinger 0\n}\nvars tcplock x\nvars y {l4.tcplock.slot}", svc.Addr)
	client := caddytest.Dial(t, addr)
	caddytest.Send(t, client, "hi")
	caddytest.Expect(t, client, "hi")
}
