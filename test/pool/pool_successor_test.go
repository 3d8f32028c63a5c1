//go:build unix

package pool_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// Processes that serve no client. Each notes in a file that it has started, and that it has
// ended, which takes a while. The test serves the clients, at the worker's port but on another
// host: a process whose address already answers before its start is refused.

type slowEnders struct {
	dir     string
	addr    string // the lock's
	workers []*caddytest.Service
}

func newSlowEnders(t *testing.T, workers int) *slowEnders {
	t.Helper()
	s := &slowEnders{dir: t.TempDir(), addr: caddytest.FreeAddr(t)}
	for range workers {
		s.workers = append(s.workers, caddytest.NewService(t, nil))
	}
	return s
}

// slow is a process that takes a while to end.
const slow = "trap ': >\"$0/$1.asked\"; sleep 0.3; echo end $$ >>\"$0/$1\"; exit' TERM; echo start $$ >>\"$0/$1\"; while :; do sleep 0.02; done"

// config is a lock in front of some of the workers, with a process for each that notes in the
// file what is it called.
func (s *slowEnders) config(notes, options string, workers ...int) string {
	return s.configOf(s.service(notes, options), workers...)
}

func (s *slowEnders) service(notes, options string) string {
	return fmt.Sprintf("service sh -c `%s` %s %s {\nready exec true\n%s\n}", slow, s.dir, notes, options)
}

func (s *slowEnders) configOf(service string, workers ...int) string {
	var addrs []string
	for _, w := range workers {
		addrs = append(addrs, strings.Replace(s.workers[w].Addr, "127.0.0.1", "[::1]", 1))
	}
	return caddytest.ProxyConfig(s.addr, caddytest.PoolLock(service, addrs...), "127.0.0.1:{l4.tcplock.worker_port}")
}

func (s *slowEnders) notes(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, file))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// oneAfterTheOther waits for the nth start, and makes sure that all processes before it have
// ended before it.
func (s *slowEnders) oneAfterTheOther(t *testing.T, file string, n int) {
	t.Helper()
	var notes []string
	caddytest.Eventually(t, fmt.Sprintf("%d processes in %s have started", n, file), func() bool {
		notes = s.notes(t, file)
		return len(slices.DeleteFunc(slices.Clone(notes), func(note string) bool { return !strings.HasPrefix(note, "start") })) >= n
	})
	alive := ""
	for _, note := range notes {
		what, pid, _ := strings.Cut(note, " ")
		switch {
		case what == "end" && pid == alive:
			alive = ""
		case what == "start" && alive == "":
			alive = pid
		default:
			t.Fatalf("found %q, expected each start after the end of the one before", notes)
		}
	}
}

// A reload removes the service of a slot, and the next one brings it back before the process
// has ended. The next process starts only after that, and clients wait.
func TestSuccessorWaits(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	s := func(t *testing.T) *slowEnders { return newSlowEnders(t, 3) }
	t.Run("worker", func(t *testing.T) {
		s := s(t)
		caddytest.Load(t, s.config("{l4.tcplock.worker_port}", "", 0, 1))
		port := caddytest.PortOf(t, s.workers[1].Addr)
		s.oneAfterTheOther(t, port, 1)
		caddytest.Load(t, s.config("{l4.tcplock.worker_port}", "", 0))
		caddytest.Load(t, s.config("{l4.tcplock.worker_port}", "", 0, 1))
		s.oneAfterTheOther(t, port, 2)
	})
	t.Run("worker in another slot", func(t *testing.T) {
		s := s(t)
		caddytest.Load(t, s.config("{l4.tcplock.worker_port}", "", 0, 1))
		port := caddytest.PortOf(t, s.workers[0].Addr)
		s.oneAfterTheOther(t, port, 1)
		caddytest.Load(t, s.config("{l4.tcplock.worker_port}", "", 1, 2))
		caddytest.Load(t, s.config("{l4.tcplock.worker_port}", "", 1, 2, 0))
		s.oneAfterTheOther(t, port, 2)
	})
	t.Run("slot of another worker", func(t *testing.T) {
		s := s(t)
		caddytest.Load(t, s.config("{l4.tcplock.slot}", "", 0, 1))
		s.oneAfterTheOther(t, "2", 1)
		caddytest.Load(t, s.config("{l4.tcplock.slot}", "", 0, 2))
		s.oneAfterTheOther(t, "2", 2)
	})
	t.Run("service", func(t *testing.T) {
		s := s(t)
		caddytest.Load(t, s.config("{l4.tcplock.slot}", "", 0))
		s.oneAfterTheOther(t, "1", 1)
		caddytest.Load(t, s.configOf("", 0))
		caddytest.Load(t, s.config("{l4.tcplock.slot}", "start lazy", 0))
		caddytest.DialSend(t, s.addr, caddytest.Number(0))
		s.workers[0].Leave(s.workers[0].Gets(t, 0))
		s.oneAfterTheOther(t, "1", 2)
	})
	t.Run("lock", func(t *testing.T) {
		s := s(t)
		caddytest.Load(t, s.config("{l4.tcplock.slot}", "", 0))
		s.oneAfterTheOther(t, "1", 1)
		client := caddytest.DialSend(t, s.addr, caddytest.Number(0))
		conn := s.workers[0].Gets(t, 0)
		caddytest.Load(t, caddytest.Global("")) // there is a client still
		client.Close()
		s.workers[0].Leave(conn)
		caddytest.Eventually(t, "the lock has gone", func() bool { return caddytest.Locks() == 0 })
		caddytest.Load(t, s.config("{l4.tcplock.slot}", "", 0))
		s.oneAfterTheOther(t, "1", 2)
	})
}

// A reload removes the service while it has a client. The client is not cut, and the process
// ends when the client has gone. A client that comes later meets the server that has the
// address by then.
func TestServiceTakenAwayFromClient(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	s := newSlowEnders(t, 1)
	caddytest.Load(t, s.config("{l4.tcplock.slot}", "", 0))
	s.oneAfterTheOther(t, "1", 1)
	client := caddytest.DialSend(t, s.addr, caddytest.Number(0))
	conn := s.workers[0].Gets(t, 0)
	caddytest.Load(t, s.configOf("", 0))
	caddytest.DialSend(t, s.addr, caddytest.Number(1))
	caddytest.InLine(t, "default", 1, 1)
	caddytest.Send(t, conn, "still here?")
	caddytest.Expect(t, client, "still here?")
	if notes := s.notes(t, "1"); len(notes) != 1 {
		t.Errorf("found %q, expected the start only", notes)
	}
	s.workers[0].Leave(conn)
	conn = s.workers[0].Gets(t, 1)
	if notes := s.notes(t, "1"); len(notes) != 2 {
		t.Errorf("found %q, expected start and end before the next client", notes)
	}
	s.workers[0].Leave(conn)
}

// When Caddy ends, it asks the processes to end and gives them time for it, also if a client stays
// until the end at a service that does not close its connection.
func TestShutdownLetsProcessesEnd(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	for name, held := range map[string]bool{"no client": false, "a client stays": true} {
		t.Run(name, func(t *testing.T) {
			s := newSlowEnders(t, 2)
			p := caddytest.StartCaddy(t, 0, s.configOf("drain 200ms\n"+s.service("{l4.tcplock.slot}", ""), 0, 1))
			s.oneAfterTheOther(t, "1", 1)
			s.oneAfterTheOther(t, "2", 1)
			if held {
				caddytest.DialSend(t, s.addr, caddytest.Number(0))
				caddytest.Eventually(t, "a service has the client", func() bool { // and does nothing with it
					_, _, first := s.workers[0].Counts()
					_, _, second := s.workers[1].Counts()
					return first+second == 1
				})
			}
			p.Terminate(t)
			p.EndsWithin(t, 2*caddytest.Prompt) // a client that stays takes more than 3s of it
			for _, file := range []string{"1", "2"} {
				if notes := s.notes(t, file); len(notes) != 2 {
					t.Errorf("found %q in %s, expected start and end", notes, file)
				}
			}
		})
	}
}

// A reload has removed the lock, and none has replaced it. Then Caddy ends. A client that is still
// at the service can go on, and a process that is ending gets its time for that.
func TestShutdownAfterLockIsRemoved(t *testing.T) {
	caddytest.Slow(t)
	t.Parallel()
	for name, stays := range map[string]bool{"client has gone": false, "client stays": true} {
		t.Run(name, func(t *testing.T) {
			s, admin := newSlowEnders(t, 1), caddytest.FreeAddr(t)
			withAdmin := func(config string) string { return strings.Replace(config, "admin off", "admin "+admin, 1) }
			p := caddytest.StartCaddy(t, 0, withAdmin(s.configOf("drain 1m\n"+s.service("1", ""), 0)))
			s.oneAfterTheOther(t, "1", 1)
			client := caddytest.DialSend(t, s.addr, caddytest.Number(0))
			conn := s.workers[0].Gets(t, 0)
			resp, err := http.Post("http://"+admin+"/load", "application/json", bytes.NewReader(caddytest.Adapt(t, withAdmin(caddytest.Global("")))))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			end := func() {
				client.Close()
				s.workers[0].Leave(conn)
				caddytest.Eventually(t, "the process is asked to end", func() bool {
					_, err := os.Stat(filepath.Join(s.dir, "1.asked"))
					return err == nil
				})
			}
			if !stays {
				end()
			}
			p.Terminate(t)
			if stays {
				p.Prints(t, "exiting")
				caddytest.Send(t, conn, "still here?")
				caddytest.Expect(t, client, "still here?")
				end()
			}
			p.EndsWithin(t, caddytest.Prompt)
			if notes := s.notes(t, "1"); len(notes) != 2 {
				t.Errorf("found %q, expected start and end", notes)
			}
		})
	}
}

// A reload that removes locks does not wait for their processes, which take long to end.
// Otherwise Caddy could not be reloaded again meanwhile. The end of Caddy does wait.
func TestReloadWaitsForNoProcess(t *testing.T) {
	t.Parallel()
	const locks = 4
	dir, admin := t.TempDir(), caddytest.FreeAddr(t)
	var servers strings.Builder
	for i := range locks {
		fmt.Fprintf(&servers, `%s {
			route {
				tcplock {
					name lock%d
					service sh -c "trap '' TERM; echo $$ >>pids; until [ -e end ]; do sleep 0.05; done" {
						dir %s
						ready exec true
						stop_timeout 1m
					}
				}
				echo
			}
		}
		`, caddytest.FreeAddr(t), i, dir)
	}
	withAdmin := func(config string) string { return strings.Replace(config, "admin off", "admin "+admin, 1) }
	p := caddytest.StartCaddy(t, 0, withAdmin(caddytest.Global("layer4 {\n"+servers.String()+"}")))
	var pids []int
	caddytest.Eventually(t, "all processes have started", func() bool {
		list, _ := os.ReadFile(filepath.Join(dir, "pids"))
		pids = caddytest.ParsePids(t, string(list))
		return len(pids) == locks
	})
	left := func() (left []int) {
		return slices.DeleteFunc(slices.Clone(pids), func(pid int) bool { return syscall.Kill(pid, 0) != nil })
	}
	client := http.Client{Timeout: caddytest.Patience}
	resp, err := client.Post("http://"+admin+"/load", "application/json", bytes.NewReader(caddytest.Adapt(t, withAdmin(caddytest.Global("")))))
	if err != nil {
		t.Errorf("found %v, expected that the reload is done while the processes still run", err)
	} else if resp.Body.Close(); resp.StatusCode != http.StatusOK {
		t.Errorf("found status %s, expected 200", resp.Status)
	}
	if n := len(left()); n != locks {
		t.Errorf("found %d processes, expected all %d", n, locks)
	}
	p.Terminate(t)
	p.Prints(t, "exiting")
	if err := os.WriteFile(filepath.Join(dir, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.EndsWithin(t, 2*caddytest.Prompt)
	if left := left(); len(left) > 0 {
		t.Errorf("found processes %v after Caddy's end, expected none", left)
	}
}
