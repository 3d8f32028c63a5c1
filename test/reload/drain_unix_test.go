//go:build unix

package reload_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A refused client gets to the refuse handlers, which know the reason. (For shutdown see
// below.)
func TestRefuseHandlersKnowWhy(t *testing.T) {
	for _, why := range []struct {
		reason, options string
		held            bool // the slot
	}{
		{"refused_full", "max_waiting 0", true},
		{"wait_timeout", "wait_timeout 50ms", true},
		{"hook_failed", "on activate exec false", false},
	} {
		t.Run(why.reason, func(t *testing.T) {
			svc := caddytest.NewService(t, nil)
			addr := caddytest.LockServer(t, fmt.Sprintf("tcplock {\nlinger 0\n%s\nrefuse {\n%s\n}\n}", why.options, caddytest.WhySockets(t)), svc.Addr)
			if why.held {
				caddytest.Dial(t, addr)
				svc.Next(t)
			}
			conn := caddytest.Dial(t, addr)
			caddytest.Expect(t, conn, why.reason)
			caddytest.ExpectEOF(t, conn)
		})
	}
}

// One client is served and two wait when Caddy gets SIGTERM. The waiters are refused at once
// with the reason. A new client is refused too, or finds no listener. The holder can go on as
// long as it needs, and then Caddy ends, long before the drain time is over.
func TestShutdownLetsHolderFinish(t *testing.T) {
	t.Parallel()
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	p := caddytest.StartCaddy(t, 0, caddytest.LockConfig(addr, "tcplock {\nlinger 0\ndrain 1m\nmax_waiting 2\nrefuse {\n"+caddytest.WhySockets(t)+"\n}\n}", svc.Addr))
	holder := caddytest.Dial(t, addr)
	conn := svc.Next(t)
	answers := waitInLine(t, addr, 2)
	p.Terminate(t)
	start := time.Now()
	for range 2 {
		if got := <-answers; got != "shutdown" {
			t.Errorf("a waiter got %q, expected shutdown", got)
		}
	}
	if took := time.Since(start); took > caddytest.Prompt {
		t.Errorf("the line was refused after %s, expected at once", took)
	}
	if late, err := net.Dial("tcp", addr); err == nil {
		_ = late.SetDeadline(time.Now().Add(caddytest.Prompt))
		got, err := io.ReadAll(late)
		if s := string(got); s != "shutdown" && s != "" || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a newcomer got %q, error %v, expected shutdown, or the end", s, err)
		}
		late.Close()
	}
	for range 3 {
		caddytest.Send(t, holder, "question")
		caddytest.Expect(t, conn, "question")
		caddytest.Send(t, conn, "answer")
		caddytest.Expect(t, holder, "answer")
		svc.NoneComes(t, "Caddy is ending")
	}
	svc.Leave(conn)
	caddytest.ExpectEOF(t, holder)
	holder.Close()
	p.EndsWithin(t, caddytest.Prompt)
}

// waitInLine fills the line, and sends one client more. When that is refused, the others are
// known to be in line. They report their answers.
func waitInLine(t *testing.T, addr string, most int) (answers chan string) {
	t.Helper()
	answers = make(chan string, most+1)
	for range most + 1 {
		conn := caddytest.Dial(t, addr)
		go func() {
			got, _ := io.ReadAll(conn)
			answers <- string(got)
			conn.Close()
		}()
	}
	if got := <-answers; got != "refused_full" {
		t.Fatalf("the first answer is %q, expected refused_full", got)
	}
	return answers
}

// A client has got its answer, and stays silent. Caddy still ends: the slot is free after
// linger, and the client has a second to close. Its answer is whole.
func TestShutdownWaitsForNoSilentClient(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
	p := caddytest.StartCaddy(t, 0, caddytest.LockConfig(addr, "tcplock {\ndrain 1m\nlinger 1s\n}", svc.Addr))
	client := caddytest.Dial(t, addr)
	conn := svc.Next(t)
	caddytest.Send(t, conn, "answer")
	svc.Leave(conn)
	caddytest.Expect(t, client, "answer")
	p.Terminate(t)
	p.EndsWithin(t, caddytest.Prompt) // it takes 2s; to wait for the client would take 6s
	caddytest.ExpectClosed(t, client)
}

// A service never closes, and clients stay. When drain is over, and not before, they are cut,
// and Caddy ends.
func TestShutdownCutsHolders(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	for _, drain := range []time.Duration{0, time.Second} {
		t.Run(drain.String(), func(t *testing.T) {
			svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
			p := caddytest.StartCaddy(t, 0, caddytest.LockConfig(addr, fmt.Sprintf("tcplock 2 {\ndrain %s\n}", drain), svc.Addr))
			for range 3 {
				defer caddytest.ExpectClosed(t, caddytest.Dial(t, addr))
			}
			first, second := svc.Next(t), svc.Next(t)
			start := time.Now()
			p.Terminate(t)
			caddytest.ExpectEOF(t, first) // the proxy's side of a client that is cut
			if took := time.Since(start); took < drain || took > drain+caddytest.Prompt {
				t.Errorf("the first was cut after %s, expected after %s", took, drain)
			}
			caddytest.ExpectClosed(t, second)
			select {
			case <-p.Ended:
				t.Error("they were cut only by the end of the program")
			case <-time.After(100 * time.Millisecond): // Caddy gives them a second to close
			}
			p.EndsWithin(t, caddytest.Patience)
			svc.NoneComes(t, "Caddy has ended")
		})
	}
}

// A hook of any moment still runs when Caddy gets SIGTERM. It may go on for drain, like a
// holder. Then it is killed with everything that it has started. Detached commands stay.
func TestShutdownEndsHooks(t *testing.T) {
	caddytest.Slow(t)
	for _, hook := range []struct {
		name, options, on string
		block             string
		clients           int
		stays             bool
	}{
		{name: "activate", on: "activate", clients: 1},
		{name: "release", options: "hold_timeout 10ms", on: "release", clients: 1},
		{name: "timeout", options: "hold_timeout 10ms", on: "timeout", clients: 1},
		{name: "refuse", options: "max_waiting 0", on: "refuse", clients: 2},
		{name: "refuse, no holder", options: "on activate exec false", on: "refuse", clients: 1},
		{name: "idle", on: "idle 10ms"},
		{name: "detached", on: "activate", block: "detach", clients: 1, stays: true},
	} {
		t.Run(hook.name, func(t *testing.T) {
			t.Parallel()
			pipe := filepath.Join(t.TempDir(), "pipe")
			if err := syscall.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			const script = "exec 3>\\\"$0\\\"; echo $$ >&3; sleep 1000 & exec sleep 1000"
			options := fmt.Sprintf("%s\non %s {\nexec sh -c \"%s\" %s {\n%s\n}\n}", hook.options, hook.on, script, pipe, hook.block)
			svc, addr := caddytest.NewService(t, nil), caddytest.FreeAddr(t)
			p := caddytest.StartCaddy(t, 0, caddytest.LockConfig(addr, "tcplock {\ndrain 200ms\n"+options+"\n}", svc.Addr))
			for range hook.clients {
				caddytest.Dial(t, addr)
			}
			pid, gone := openPipe(t, pipe)
			p.Terminate(t)
			p.EndsWithin(t, caddytest.Patience)
			if hook.stays {
				select {
				case <-gone:
					t.Error("the detached command has ended with Caddy")
				case <-time.After(100 * time.Millisecond):
				}
				_ = syscall.Kill(-pid, syscall.SIGKILL)
			}
			select {
			case <-gone:
			case <-time.After(caddytest.Patience):
				t.Error("the hook's command still runs")
				_ = syscall.Kill(-pid, syscall.SIGKILL)
			}
		})
	}
}

// openPipe waits until a command has opened the pipe. gone is closed when no process has it
// open any more.
func openPipe(t *testing.T, path string) (pid int, gone chan struct{}) {
	t.Helper()
	came, gone := make(chan int, 1), make(chan struct{})
	go func() {
		defer close(gone)
		pipe, err := os.Open(path)
		if err != nil {
			return
		}
		defer pipe.Close()
		r := bufio.NewReader(pipe)
		line, _ := r.ReadString('\n')
		pid, _ := strconv.Atoi(strings.TrimSpace(line))
		came <- pid
		_, _ = io.Copy(io.Discard, r)
	}()
	select {
	case pid = <-came:
		return pid, gone
	case <-time.After(caddytest.Patience):
		t.Fatal("the hook has not run")
		return 0, nil
	}
}
