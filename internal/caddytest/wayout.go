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

// wayEnv chooses the way out in the configs of LockConfig: with wayTo tcplock connects, otherwise proxy.
const (
	wayEnv = "CADDYTEST_WAY"
	wayTo  = "to"
)

var way = os.Getenv(wayEnv)

// BothWays is like Main. But first it runs the tests, in a process of its own, with tcplock itself connecting
// to the service. There it leaves out those that take seconds, unless TCPLOCK_BOTH_WAYS is "all".
func BothWays(m *testing.M) {
	flag.Parse()
	listing := flag.Lookup("test.list").Value.String() != "" || flag.Lookup("test.fuzz").Value.String() != ""
	if way != "" || os.Getenv(apartEnv) != "" || os.Getenv(workerEnv) != "" || isCaddy() || listing {
		Main(m)
		return
	}
	if err := otherWay(); err != nil {
		fmt.Println("FAIL: where tcplock itself connects to the service:", err)
		os.Exit(1)
	}
	Main(m)
}

// otherWay runs the tests with the flags of this process.
func otherWay() error {
	args := []string{"-test.v=false"}
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "test.testlogfile", "test.v", "test.coverprofile", "test.gocoverdir", "test.bench", "test.outputdir", "test.cpuprofile", "test.paniconexit0":
		default:
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	if os.Getenv("TCPLOCK_BOTH_WAYS") != "all" {
		args = append(args, "-test.short")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), wayEnv+"="+wayTo)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}

// WayOut returns a route to the service whose other handlers are given.
func WayOut(route, service string) string {
	if way == wayTo {
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
