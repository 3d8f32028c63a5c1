package hooks_test

import (
	"fmt"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A hook emits an event with the name that Caddy uses when a config has started. The hook's
// config has been replaced meanwhile, and the event does not bring it back.
func TestEmitStartedChangesNothing(t *testing.T) {
	svc := caddytest.NewService(t, nil)
	addr := hookServer(t, 1, "on activate {\nemit held_up\nemit started\n}", svc.Addr)
	conn := caddytest.Dial(t, addr)
	hook := caughtHook(t, "held_up")
	caddytest.Load(t, caddytest.LockConfig(addr, "tcplock 3 {\nlinger 0\n}", svc.Addr))
	hook.Answer <- nil
	caughtHook(t, "started").Answer <- nil
	svc.Next(t)
	if slots, _, _, _ := caddytest.LockStats("default"); slots != 3 {
		t.Errorf("found %d slots, expected 3", slots)
	}
	conn.Close()
}

// A client on a unix socket chooses the path that is its address. Neither an argument nor the
// environment of a command shows it.
func TestChosenAddressReachesNoCommand(t *testing.T) {
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.LockServer(t, "proxy_protocol {\nallow 127.0.0.1/32\n}\ntcplock {\nlinger 0\non activate exec sh -c `test \"$TCPLOCK_CLIENT $1\" = \"unix unix\"` x {l4.tcplock.client}\n}", svc.Addr)
	client := caddytest.Dial(t, addr)
	path := make([]byte, 216)
	copy(path, "--upload-pack=evil; $(id)\n\x1b[2J")
	copy(path[108:], "dst")
	caddytest.Send(t, client, fmt.Sprintf("\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8%shi", path))
	caddytest.Expect(t, client, "hi")
}
