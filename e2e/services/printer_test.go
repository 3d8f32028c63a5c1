package services_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// As examples/printer has it: each other client is nc -N.
func TestPrinterByNetcat(t *testing.T) {
	nc := netcat(t)
	caddytest.PrintJobs(t, func(t *testing.T, addr string, job []byte) {
		printByNetcat(t, nc, addr, job)
	}, caddytest.PrintAndGo)
}

// A printer takes one job at a time. Two crowds come to it. In each, a client is killed in the
// middle of its job, and then twenty nc come at once. The first killed client is at the printer,
// the second is in line. The printer gets what they have sent as jobs of their own. It gets all
// other jobs whole, and those of the first crowd before those of the second.
func TestPrinterServesCrowds(t *testing.T) {
	const crowd = 20
	nc := netcat(t)
	printed := make(chan []byte, 100)
	printer := caddytest.NewService(t, func(conn *net.TCPConn) {
		job, _ := io.ReadAll(conn)
		printed <- job
	})
	lock := caddytest.LockServer(t, "tcplock 1 {\nname printer\n}", printer.Addr)
	job := func(i int) []byte { // the numbers of a crowd's jobs begin with its own
		lines := 1 << (i % 16)
		if i%100 == 0 {
			lines = 1 << 14 // more than nc and the pipe to it hold
		}
		return bytes.Repeat(fmt.Appendf(nil, "job %d\n", i), lines)
	}

	var killed, others []*caddytest.Program
	for first := 100; first <= 200; first += 100 {
		client := startNetcat(t, nc, lock)
		client.Types(t, string(job(first)))
		killed = append(killed, client)
		caddytest.InLine(t, "printer", 1, len(killed)+len(others)-1)
		for i := first + 1; i <= first+crowd; i++ {
			others = append(others, printByNetcat(t, nc, lock, job(i)))
		}
		caddytest.InLine(t, "printer", 1, len(killed)+len(others)-1)
	}
	for _, client := range []*caddytest.Program{killed[1], killed[0]} {
		_ = client.Cmd.Process.Kill()
		<-client.Ended
	}
	for _, client := range others {
		if out, err := client.Result(t); err != nil {
			t.Errorf("nc -N: %v\n%s", err, out)
		}
	}
	caddytest.InLine(t, "printer", 0, 0)

	if _, most, total := printer.Counts(); most != 1 || total != len(killed)+len(others) {
		t.Fatalf("the printer had %d connections, up to %d at once, expected %d and 1", total, most, len(killed)+len(others))
	}
	seen := make(map[int]bool)
	for at := range len(killed) + len(others) {
		got, i := <-printed, 0
		_, _ = fmt.Sscanf(string(got), "job %d\n", &i)
		first, whole := at/(crowd+1)*100+100, bytes.Equal(got, job(i))
		if at%(crowd+1) == 0 {
			whole = i == first && bytes.HasPrefix(job(i), got)
		}
		if !whole || seen[i] || i-i%100 != first {
			t.Errorf("job %d in line: found %d bytes that begin %.9q, expected one of crowd %d, whole and once", at, len(got), got, first)
		}
		seen[i] = true
	}
}

// startNetcat starts a client that closes its side when its input ends, and ends itself when
// the service has closed too.
func startNetcat(t *testing.T, nc, addr string) *caddytest.Program {
	t.Helper()
	host, port, _ := net.SplitHostPort(addr)
	return caddytest.Start(t, nil, nc, "-N", host, port)
}

// printByNetcat starts an nc that sends a job.
func printByNetcat(t *testing.T, nc, addr string, job []byte) *caddytest.Program {
	t.Helper()
	p := startNetcat(t, nc, addr)
	p.Typing.Go(func() {
		_, _ = p.Stdin.Write(job)
		p.Stdin.Close()
	})
	return p
}
