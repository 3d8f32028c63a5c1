package line_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// In these tests the process has ten descriptors for connections. They count how many
// connections may come.

// thenRefused makes sure that the lock takes exactly so many connections, one of which gets its
// slot.
func thenRefused(t *testing.T, addr, lock string, held, waiting int) {
	t.Helper()
	for i := range waiting {
		caddytest.Dial(t, addr)
		caddytest.InLine(t, lock, held, i+1)
	}
	expectRefused(t, addr, "")
}

// A connection that goes through two locks has one client and one service.
func TestNestedLocksCountOnce(t *testing.T) {
	t.Cleanup(caddytest.SetDescriptorLimit(64 + 10)) // when Caddy has stopped
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock 1 {\nname outer\nlinger 0\n}\ntcplock 1 {\nname inner\nlinger 0\n}", svc.Addr)
	caddytest.LeakCheck(t)
	caddytest.Dial(t, addr)
	caddytest.InLine(t, "inner", 1, 0)
	thenRefused(t, addr, "outer", 1, 8-1) // two for the holder of each slot, as if the locks stood apart
	if n := caddytest.Counted(); n != 8 {
		t.Errorf("found %d connections counted, expected 8", n)
	}
	for range 8 {
		svc.Leave(svc.Next(t))
	}
	caddytest.InLine(t, "outer", 0, 0)
}

// Four connections hold a slot when slots are lowered to one. With two descriptors each, they
// leave two.
func TestLoweredSlotsStayInBudget(t *testing.T) {
	t.Cleanup(caddytest.SetDescriptorLimit(64 + 10)) // when Caddy has stopped
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock 4 {\nlinger 0\n}", svc.Addr)
	caddytest.Fill(t, addr, "default", 4, 0)
	caddytest.Load(t, caddytest.LockConfig(addr, "tcplock 1 {\nlinger 0\n}", svc.Addr))
	thenRefused(t, addr, "default", 4, 2)
	for range 6 {
		svc.Leave(svc.Next(t))
	}
	caddytest.InLine(t, "default", 0, 0)
}

// The service keeps a connection that has lost its slot, and the next one has a socket to the
// service too. That leaves six in line.
func TestLeftOverStaysInBudget(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	t.Cleanup(caddytest.SetDescriptorLimit(64 + 10)) // when Caddy has stopped
	svc := caddytest.NewService(t, nil)
	addr := caddytest.LockServer(t, "tcplock {\nlinger 0\nhold_timeout 100ms\n}", svc.Addr)
	caddytest.Send(t, caddytest.Dial(t, addr), "hello")
	wedged := svc.Next(t)
	caddytest.Eventually(t, "the first is left over", func() bool {
		_, _, _, leftOver := caddytest.LockStats("default")
		return leftOver == 1
	})
	caddytest.Load(t, caddytest.LockConfig(addr, "tcplock {\nlinger 0\n}", svc.Addr))
	caddytest.Dial(t, addr)
	caddytest.InLine(t, "default", 1, 0)
	thenRefused(t, addr, "default", 1, 6)
	svc.Leave(wedged)
	for range 7 {
		svc.Leave(svc.Next(t))
	}
	caddytest.InLine(t, "default", 0, 0)
}

// The command of a running hook takes two descriptors, which leave seven connections.
func TestRunningHookIsInBudget(t *testing.T) {
	t.Cleanup(caddytest.SetDescriptorLimit(64 + 10)) // when Caddy has stopped
	svc := caddytest.NewService(t, nil)
	dir := t.TempDir()
	begun, gate := filepath.Join(dir, "begun"), filepath.Join(dir, "gate")
	addr := caddytest.LockServer(t, fmt.Sprintf("tcplock {\nlinger 0\non activate {\nevery 100\nexec sh -c \"touch '%s'; while [ ! -e '%s' ]; do sleep 0.05; done\"\n}\n}", begun, gate), svc.Addr)
	caddytest.Dial(t, addr)
	caddytest.Eventually(t, "the hook runs", func() bool { _, err := os.Stat(begun); return err == nil })
	thenRefused(t, addr, "default", 1, 7-1)
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 7 {
		svc.Leave(svc.Next(t))
	}
	caddytest.InLine(t, "default", 0, 0)
}

// refusalsAt1024 is how many may be at refuse handlers in a process with 1024 descriptors.
const refusalsAt1024 = 32

// busyServer refuses all but one connection with the answer of a busy service.
func busyServer(t *testing.T) (addr string, busy *caddytest.Service) {
	t.Helper()
	t.Cleanup(caddytest.SetDescriptorLimit(1024)) // when Caddy has stopped
	busy = caddytest.NewService(t, answerBusy)
	svc := caddytest.NewService(t, nil)
	addr = caddytest.LockServer(t, "tcplock {\nmax_waiting 0\nrefuse {\nproxy "+busy.Addr+"\n}\n}", svc.Addr)
	caddytest.LeakCheck(t)
	caddytest.Dial(t, addr)
	caddytest.InLine(t, "default", 1, 0)
	return addr, busy
}

// A hundred clients are refused, get their answer and its end, and do not close. So does each
// client that comes then and closes at once.
func TestRefusedClientsThatDoNotClose(t *testing.T) {
	addr, _ := busyServer(t)
	var slow []*net.TCPConn
	for range 100 {
		conn := caddytest.Dial(t, addr)
		caddytest.Send(t, conn, "hello")
		caddytest.Expect(t, conn, "busy!")
		caddytest.ExpectEOF(t, conn)
		slow = append(slow, conn)
	}
	for range 50 {
		expectRefused(t, addr, "busy!")
	}
	if n := caddytest.Draining(); n > refusalsAt1024 {
		t.Errorf("found %d that are waited for, expected few", n)
	}
	for _, conn := range slow {
		conn.Close()
	}
}

// Silent clients take all places at the refuse handlers. After a second, new clients get their
// answer, each in place of the client that has been silent longest.
func TestRefusedClientsThatAreSilent(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	addr, busy := busyServer(t)
	var silent []*net.TCPConn
	for i := range refusalsAt1024 {
		silent = append(silent, caddytest.Dial(t, addr))
		caddytest.Eventually(t, "it is at the busy service", func() bool { now, _, _ := busy.Counts(); return now == i+1 })
	}
	time.Sleep(1100 * time.Millisecond) // each keeps its place for a second
	for range 50 {
		expectRefused(t, addr, "busy!")
	}
	caddytest.ExpectClosed(t, silent[0])
	_ = silent[refusalsAt1024-1].SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := silent[refusalsAt1024-1].Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("the silent client that came last: found %v, expected it to be left alone", err)
	}
	if _, most, _ := busy.Counts(); most > refusalsAt1024+refusalsAt1024/4 {
		t.Errorf("the busy service had %d at a time, expected at most %d, with those just cut", most, refusalsAt1024)
	}
	for _, conn := range silent {
		conn.Close()
	}
}
