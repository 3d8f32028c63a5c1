package caddytest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A lock has one of two ways out: proxy connects to the service, or tcplock itself does. What holds for
// clients, services and operators holds for both, so the same tests run over both.

// wayEnv chooses the way out in the configs of LockConfig: with wayTo tcplock connects, otherwise proxy. With
// wayKeep it connects too, and listens on keep/, where it gets connections without caddy-l4.
// blocking has tcplock wait in the goroutine of each connection, as it does where it cannot detach them.
const (
	wayEnv   = "CADDYTEST_WAY"
	wayTo    = "to"
	wayKeep  = "to on keep"
	blocking = "CADDY_TCPLOCK_DETACH=off"
)

var way = os.Getenv(wayEnv)

// OnWay returns an address as the way under test listens on it.
func OnWay(addr string) string {
	if way == wayKeep && !strings.Contains(addr, "/") {
		return "keep/" + addr
	}
	return addr
}

// BothWays is like Main. But it also runs the tests in a process of its own, with tcplock itself connecting to
// the service. Meanwhile it leaves out there what takes seconds; if CADDYTEST_BOTH_WAYS is "all", it runs all of
// them, one process after the other, and then on other networks, and without detaching connections.
func BothWays(m *testing.M) {
	flag.Parse()
	listing := flag.Lookup("test.list").Value.String() != "" || flag.Lookup("test.fuzz").Value.String() != ""
	if way != "" || os.Getenv(apartEnv) != "" || os.Getenv(workerEnv) != "" || isCaddy() || listing {
		Main(m)
		return
	}
	all := os.Getenv("CADDYTEST_BOTH_WAYS") == "all"
	ended := make(chan error, 1)
	go func() {
		err := otherWay(wayKeep, all)
		if all {
			err = errors.Join(err, otherWay(wayTo, all), otherWay(wayTo, all, blocking))
		}
		ended <- err
	}()
	if all {
		ended <- <-ended
	}
	code := run(m)
	if err := <-ended; err != nil {
		fmt.Println("FAIL: where tcplock itself connects to the service:", err)
		code = 1
	}
	os.Exit(code)
}

// otherWay runs the tests with the flags of this process, all or those of -short.
func otherWay(way string, all bool, env ...string) error {
	args := []string{"-test.v=false"}
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "test.testlogfile", "test.v", "test.coverprofile", "test.gocoverdir", "test.bench", "test.outputdir", "test.cpuprofile", "test.paniconexit0":
		default:
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	if !all {
		args = append(args, "-test.short")
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), wayEnv+"="+way), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", way, env, err, out)
	}
	return nil
}

// WayOut returns a route to the service. The handlers before the way out are given.
func WayOut(route, service string) string {
	if way != "" {
		if relayed, ok := withTo(route, service); ok {
			return relayed
		}
	}
	return route + "\nproxy " + service
}

// withTo has tcplock connect to the service. It returns false if that is not the last handler of the route.
func withTo(route, service string) (relayed string, ok bool) {
	lines := strings.Split(strings.TrimSpace(route), "\n")
	at, depth := -1, 0 // where the last handler begins
	for i, line := range lines {
		if depth == 0 && strings.TrimSpace(line) != "" {
			at = i
		}
		if line = strings.TrimSpace(line); strings.HasSuffix(line, "{") {
			depth++
		} else if line == "}" {
			depth--
		}
	}
	if at < 0 {
		return "", false
	}
	fields := strings.Fields(lines[at])
	block := strings.Join(lines[at:], "\n")
	switch {
	case fields[0] != "tcplock" || strings.Contains(block, "worker_check"):
		return "", false
	case strings.Contains(service, "{l4.tcplock.worker"):
		return route, true
	case strings.Contains(block, "\nworkers ") || strings.Contains(block, "\nservice "):
		return "", false
	}
	head, rest := strings.TrimSuffix(lines[at], "{"), lines[at+1:]
	if len(rest) == 0 {
		rest = []string{"}"}
	}
	lines = append(append(lines[:at:at], head+" {", "to "+service), rest...)
	return strings.Join(lines, "\n"), true
}
