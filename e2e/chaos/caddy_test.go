//go:build chaos && linux

package chaos

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const adminAddress = "127.0.0.1:2019"

// buildCaddy builds the program, with the race detector if TCPLOCK_CHAOS_RACE is 1.
func buildCaddy(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "caddy")
	args := []string{"build", "-buildvcs=false", "-o", path}
	if os.Getenv("TCPLOCK_CHAOS_RACE") == "1" {
		args = append(args, "-race")
	}
	if err := run("go", append(args, "github.com/seed-4dbef00f/caddy-tcplock/cmd/caddy")...); err != nil {
		t.Fatal(err)
	}
	return path
}

// caddy is the program under test.
type caddy struct {
	cmd   *exec.Cmd
	ended chan error
	http  http.Client
}

// startCaddy starts the program and waits for its admin API. Its log goes to a file in dir, and each
// line to seen.
func startCaddy(t *testing.T, dir, config string, env []string, seen func([]byte)) *caddy {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "caddy.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &caddy{cmd: exec.Command(os.Getenv(caddyEnv), "run", "--config", file)}
	c.http.Transport = &http.Transport{DisableKeepAlives: true}
	c.http.Timeout = time.Minute
	c.cmd.Env = append(append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir), env...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{}
	c.cmd.Stderr = io.MultiWriter(log, &lines{line: seen})
	if c.ended, err = startBound(c.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			_ = c.cmd.Process.Kill()
		}
	})
	eventually(t, "the admin API answers", func() string {
		if err := c.call("GET", "/config/", "", nil); err != nil {
			return err.Error()
		}
		return ""
	})
	return c
}

// apiError is an error that the admin API has answered.
type apiError struct {
	status int
	text   string
}

func (e *apiError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.text) }

// call sends a request to the admin API, and decodes the answer unless into is nil.
func (c *caddy) call(method, path, body string, into any) error {
	text, err := c.text(method, path, body)
	if err == nil && into != nil {
		err = json.Unmarshal(text, into)
	}
	return err
}

// text returns the answer to a request. At a reload Caddy may close a connection that has just come
// to its admin API. Then text tries again, if the request may be sent twice.
func (c *caddy) text(method, path, body string) (text []byte, err error) {
	twice := method == "GET" || path == "/load" || strings.HasSuffix(path, "/resume")
	for range 10 {
		text, err = c.ask(method, path, body)
		if lost := (*url.Error)(nil); !twice || !errors.As(err, &lost) || lost.Timeout() {
			break
		}
	}
	return text, err
}

func (c *caddy) ask(method, path, body string) ([]byte, error) {
	req, err := http.NewRequest(method, "http://"+adminAddress+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "text/caddyfile")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = &apiError{resp.StatusCode, strings.TrimSpace(string(text))}
	}
	return text, err
}

// status has the parts of a lock's status that the test uses.
type status struct {
	Name        string
	Slots       int
	Held        int
	Waiting     int
	LeftOver    int `json:"left_over"`
	Paused      *struct{}
	Connections map[string]int
	Holders     []connection
	Waiters     []connection
	Workers     []struct {
		Slot    int
		State   string
		Process *struct {
			State string
			PID   int
		}
	}
}

type connection struct {
	ID     uint64
	Client netip.AddrPort
	State  string
}

func (s *status) ended() (n int) {
	for _, count := range s.Connections {
		n += count
	}
	return n
}

func (c *caddy) locks() (all map[string]*status, err error) {
	var answer struct{ Locks []*status }
	if err := c.call("GET", "/tcplock/locks", "", &answer); err != nil {
		return nil, err
	}
	all = make(map[string]*status)
	for _, s := range answer.Locks {
		all[s.Name] = s
	}
	return all, nil
}

// size counts what may leak in a process.
type size struct{ goroutines, descriptors, heap int }

func (s size) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d KiB of heap", s.goroutines, s.descriptors, s.heap>>10)
}

var (
	goroutineTotal = regexp.MustCompile(`goroutine profile: total (\d+)`)
	heapAlloc      = regexp.MustCompile(`# HeapAlloc = (\d+)`)
)

// size returns the size of Caddy after a garbage collection.
func (c *caddy) size() (s size, stacks []byte, err error) {
	heap, err := c.text("GET", "/debug/pprof/heap?gc=1&debug=1", "")
	if err != nil {
		return s, nil, err
	}
	if stacks, err = c.text("GET", "/debug/pprof/goroutine?debug=1", ""); err != nil {
		return s, nil, err
	}
	descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid))
	if err != nil {
		return s, nil, err
	}
	number := func(found [][]byte) int {
		if found == nil {
			return 0
		}
		n, _ := strconv.Atoi(string(found[1]))
		return n
	}
	s = size{number(goroutineTotal.FindSubmatch(stacks)), len(descriptors), number(heapAlloc.FindSubmatch(heap))}
	return s, stacks, nil
}

// stop ends the program as a service manager does.
func (c *caddy) stop(t *testing.T) {
	t.Helper()
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-c.ended:
		if err != nil {
			t.Errorf("after SIGTERM Caddy has ended with %v, expected success", err)
		}
	case <-time.After(patience):
		t.Errorf("Caddy has not ended %s after SIGTERM", patience)
	}
}

// trouble has the words that must not be in the log.
var trouble = [][]byte{[]byte("panic"), []byte("DATA RACE"), []byte("fatal error")}

func troubled(line []byte) bool {
	for _, word := range trouble {
		if bytes.Contains(line, word) {
			return true
		}
	}
	return false
}
