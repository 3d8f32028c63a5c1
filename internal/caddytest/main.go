package caddytest

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// Main is the TestMain of each package that uses this one.
//
// A test binary contains all of Caddy. So it can also be the program: it is if its name is caddy, see
// Caddy. And it can be the process of a worker, see workerEnv.
func Main(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	if isCaddy() {
		caddycmd.Main()
		return 0
	}
	if address := os.Getenv(workerEnv); address != "" {
		serveWorker(address)
	}
	apart = os.Getenv(apartEnv)
	os.Unsetenv(apartEnv) // the programs that the test starts must not have it
	flag.Parse()
	atOnce := true
	flag.Visit(func(f *flag.Flag) { atOnce = atOnce && f.Name != "test.parallel" })
	if atOnce {
		// The parallel tests wait more than they compute.
		_ = flag.Set("test.parallel", "8")
	}
	defer func() { _ = os.RemoveAll(built) }()
	return m.Run()
}

func isCaddy() bool { return strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") == programName }

// built is the directory of the programs that the tests have made, "" if there are none.
var built string

const programName = "caddy"

var makeOnce = sync.OnceValues(func() (dir string, err error) {
	built, err = os.MkdirTemp("", "tcplock")
	return built, err
})

var linkOnce = sync.OnceValues(func() (path string, err error) {
	dir, err := makeOnce()
	if err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, programName)
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	return path, os.Symlink(self, path)
})

// Caddy returns the path of the program. The program is this test binary under another name. So it
// needs no build, and has the race detector if the tests have it.
func Caddy(t *testing.T) string {
	t.Helper()
	path, err := linkOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var buildOnce = sync.OnceValues(func() (path string, err error) {
	dir, err := makeOnce()
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "built", programName)
	// -buildvcs=false: a source tree may be without git.
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, "github.com/seed-4dbef00f/caddy-tcplock/cmd/caddy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build cmd/caddy: %w\n%s", err, out)
	}
	return path, nil
})

// BuildCaddy builds cmd/caddy and returns its path. It is for tests that need the program as users
// get it. It builds once for all tests of a package.
func BuildCaddy(t *testing.T) string {
	t.Helper()
	path, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// workerEnv makes the test binary the process of a worker, at this address.
const workerEnv = "CADDYTEST_WORKER"

// serveWorker serves Echo at the address.
func serveWorker(address string) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go func() {
			defer conn.Close()
			Echo(conn.(*net.TCPConn))
		}()
	}
}

// Slow skips the test with -short. It is for tests that take seconds.
func Slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes seconds")
	}
}

const apartEnv = "CADDYTEST_APART"

// apart is the name of the test for which this process was started by Apart; "": none.
var apart string

// Apart runs the calling test in a process of its own, in parallel with other such tests of the
// package, because a process can have only one Caddy. In the new process it returns false, and the
// test goes on. In the old process it returns true once the new one has ended.
//
//	if caddytest.Apart(t) {
//		return
//	}
//
// It is for tests that wait for times that a config sets. It is not for tests that read files of the
// repository: go test does not see which files the new process reads, and might use a cached result.
func Apart(t *testing.T) (done bool) {
	t.Helper()
	if apart == t.Name() {
		return false
	}
	t.Parallel()
	run := "^" + regexp.QuoteMeta(t.Name()) + "$"
	if _, subtests, found := strings.Cut(flag.Lookup("test.run").Value.String(), "/"); found {
		run += "/" + subtests
	}
	args := []string{"-test.run=" + run, "-test.v", "-test.count=1"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	if end, bounded := t.Deadline(); bounded {
		args = append(args, fmt.Sprint("-test.timeout=", time.Until(end)))
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), apartEnv+"="+t.Name())
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP: "):
		t.Skip(string(out))
	case !strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Errorf("found no test that ran:\n%s", out)
	default:
		t.Log(string(out))
	}
	return true
}
