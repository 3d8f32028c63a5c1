package ending_test

import (
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A connection goes through two locks with different lingers. The service has closed, and the
// client stays silent. The shorter linger holds for both locks, in either order.
func TestShortestLingerOfTwoLocks(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	const long = "linger 10m"
	for _, order := range []struct{ name, outer, inner string }{
		{"the inner one's is shorter", long, "linger 0"},
		{"the outer one's is shorter", "linger 0", long},
	} {
		t.Run(order.name, func(t *testing.T) {
			svc := caddytest.NewService(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "reply") })
			addr := caddytest.LockServer(t, fmt.Sprintf("tcplock {\nname outer\n%s\n}\ntcplock {\nname inner\n%s\n}", order.outer, order.inner), svc.Addr)
			for range 3 {
				conn := caddytest.Dial(t, addr)
				caddytest.Expect(t, conn, "reply")
				caddytest.Eventually(t, "both slots are free", func() bool {
					_, outer, _, _ := caddytest.LockStats("outer")
					_, inner, _, _ := caddytest.LockStats("inner")
					return outer == 0 && inner == 0
				})
			}
		})
	}
}
