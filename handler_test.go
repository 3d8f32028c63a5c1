package tcplock_test

import (
	"fmt"
	"sync"
	"testing"
)

// Forty clients at once, three slots: the service never has more than three, and every
// client is served.
func TestNeverMoreThanSlots(t *testing.T) {
	svc := newService(t, echo)
	addr := lockServer(t, "tcplock 3", svc.addr)
	var clients sync.WaitGroup
	for i := range 40 {
		clients.Go(func() {
			conn := dial(t, addr)
			msg := fmt.Sprint("message ", i)
			send(t, conn, msg)
			expect(t, conn, msg)
			_ = conn.CloseWrite()
			expectEOF(t, conn)
		})
	}
	clients.Wait()
	if _, most, total := svc.counts(); most > 3 || total != 40 {
		t.Errorf("the service had %d connections at most and %d in all, expected at most 3 and 40", most, total)
	}
}
