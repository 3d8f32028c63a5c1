package cli

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// fakeAdmin is an admin API for tests.
type fakeAdmin struct {
	*httptest.Server

	mu       sync.Mutex
	busy     bool // answers nothing but 503
	locks    []status.Lock
	requests []string // method, path and query, without those that list the locks
}

// newFakeAdmin starts a fakeAdmin with these locks. verbs answers all requests but those that list
// the locks.
func newFakeAdmin(t *testing.T, verbs http.HandlerFunc, locks ...status.Lock) *fakeAdmin {
	t.Helper()
	f := &fakeAdmin{locks: locks}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.busy {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"error":"too busy"}`))
			return
		}
		if r.Method == http.MethodGet && r.URL.Path == status.AdminPath {
			_ = json.NewEncoder(w).Encode(map[string]any{"locks": f.locks})
			return
		}
		f.requests = append(f.requests, r.Method+" "+r.URL.RequestURI())
		verbs(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeAdmin) set(busy bool, locks ...status.Lock) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy, f.locks = busy, locks
}

func (f *fakeAdmin) asked() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.requests, "\n")
}

func (f *fakeAdmin) address() string { return f.Listener.Addr().String() }

// answerJSON answers every request with value.
func answerJSON(value any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(value) }
}

// execute runs "caddy tcplock ..." in the test, and returns what it prints.
func execute(args ...string) (string, error) {
	var out strings.Builder
	cmd := &cobra.Command{Use: "caddy", SilenceUsage: true}
	lock := &cobra.Command{Use: "tcplock"}
	setUpCommand(lock)
	cmd.AddCommand(lock)
	cmd.SetArgs(append([]string{"tcplock"}, args...))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.Execute()
	return out.String(), err
}

// A wrong command line is refused before Caddy is asked, with what was found and what is
// expected.
func TestAdminCommandErrors(t *testing.T) {
	for line, want := range map[string]string{
		"status a b":                    "found 2 arguments, expected a lock (see caddy tcplock status --help)",
		"top a":                         "found 1 argument, expected nothing but options (see caddy tcplock top --help)",
		"pause a b":                     "found 2 arguments, expected a lock (see caddy tcplock pause --help)",
		"kick":                          "found 0 arguments, expected a lock and the id of a connection (see caddy tcplock kick --help)",
		"kick a 1 2":                    "found 3 arguments, expected a lock and the id of a connection (see caddy tcplock kick --help)",
		"kick a b":                      `found "b", expected the id of a connection, a whole number (see caddy tcplock kick --help)`,
		"kick a":                        `found "a", expected the id of a connection, a whole number (see caddy tcplock kick --help)`,
		"run":                           "found 0 arguments, expected a lock and a moment (see caddy tcplock run --help)",
		"run a activate --slot 0":       `--slot: found "0", expected the number of a slot, from 1 (see caddy tcplock run --help)`,
		"run a activate --wait 5":       `--wait: found "5" without a unit, expected a duration such as 5s (see caddy tcplock run --help)`,
		"restart --slot x":              `--slot: found "x", expected the number of a slot, from 1 (see caddy tcplock restart --help)`,
		"pause --for -5s":               "--for: found -5s, expected a duration of more than 0 (see caddy tcplock pause --help)",
		"top --interval 0":              "--interval: found 0, expected a duration of more than 0 (see caddy tcplock top --help)",
		"drain a --timeout 5s":          "found --timeout without --wait, expected both (see caddy tcplock drain --help)",
		"resume --no-such-flag":         "unknown flag: --no-such-flag (see caddy tcplock resume --help)",
		"status --address udp/a:1-2":    `found "udp/a:1-2", expected the address of Caddy's admin API, such as localhost:2019 or unix//run/caddy/admin.sock`,
		"status --address a:b:c":        `found "a:b:c", expected the address of Caddy's admin API, such as localhost:2019 or unix//run/caddy/admin.sock`,
		"status --config /nowhere/file": "reading config from file: open /nowhere/file: no such file or directory",
	} {
		t.Run(line, func(t *testing.T) {
			args := strings.Fields(line)
			if !strings.Contains(line, "--address") && !strings.Contains(line, "--config") {
				args = append(args, "--address", "127.0.0.1:1") // not the one that runs here
			}
			if _, err := execute(args...); err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

// A command works on the named lock, or without a name on the only one. Otherwise the error lists
// the locks.
func TestLockIsMeant(t *testing.T) {
	a, b := status.Lock{Name: "a"}, status.Lock{Name: "b"}
	for _, test := range []struct {
		args  string
		locks []status.Lock
		want  string // the request, or the error
	}{
		{"resume", []status.Lock{a}, "POST /tcplock/locks/a/resume"},
		{"resume a", []status.Lock{a}, "POST /tcplock/locks/a/resume"},
		{"resume b", []status.Lock{a, b}, "POST /tcplock/locks/b/resume"},
		{"kick 7", []status.Lock{a}, "POST /tcplock/locks/a/kick?id=7"},
		{"kick b 7", []status.Lock{a, b}, "POST /tcplock/locks/b/kick?id=7"},
		{"run idle --slot 2 --wait 1m", []status.Lock{a}, "POST /tcplock/locks/a/run?moment=idle&slot=2&wait=1m0s"},
		{"run b idle", []status.Lock{a, b}, "POST /tcplock/locks/b/run?moment=idle"},
		{"restart --slot 2", []status.Lock{a}, "POST /tcplock/locks/a/restart?slot=2"},
		{"pause --for 1d", []status.Lock{a}, "POST /tcplock/locks/a/pause?for=24h0m0s"},
		{"drain --for 90s", []status.Lock{a}, "POST /tcplock/locks/a/pause?for=1m30s"},
		{"resume", []status.Lock{a, b}, "found no name of a lock, expected one of: a, b"},
		{"kick 7", []status.Lock{a, b}, "found no name of a lock, expected one of: a, b"},
		{"resume c", []status.Lock{a, b}, `found no lock "c", expected one of: a, b`},
		{"status c", []status.Lock{a, b}, `found no lock "c", expected one of: a, b`},
		{"resume c", []status.Lock{a}, `found no lock "c", expected one of: a`},
		{"resume", nil, "found no lock in the config of the Caddy at ADDRESS, expected at least one"},
	} {
		api := newFakeAdmin(t, answerJSON(status.Lock{}), test.locks...)
		_, err := execute(append(strings.Fields(test.args), "--address", api.address())...)
		got := api.asked()
		if err != nil {
			got = strings.ReplaceAll(err.Error(), api.address(), "ADDRESS")
		}
		if got != test.want {
			t.Errorf("%s with %d locks:\ngot  %s\nwant %s", test.args, len(test.locks), got, test.want)
		}
	}
}

// The errors of the client say what went wrong, on the way to Caddy or at Caddy.
func TestAdminClientErrors(t *testing.T) {
	serve := func(status int, body string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for address, want := range map[string]string{
		closed.Addr().String():                              "found no Caddy at ADDRESS: it is not running, or its admin API is off or elsewhere (see --address and --config)",
		"unix/" + filepath.Join(t.TempDir(), "nothing"):     "found no Caddy at ADDRESS: it is not running, or its admin API is off or elsewhere (see --address and --config)",
		silent.Addr().String():                              "found no answer from Caddy at ADDRESS within 100ms",
		serve(200, "<html>"):                                "found no JSON at ADDRESS, expected Caddy's admin API: invalid character '<' looking for beginning of value",
		serve(404, `{"error":"resource not found"}`):        "found no tcplock in the Caddy at ADDRESS: it was built without this plugin, or with an old version",
		serve(403, `{"error":"host not allowed: x\u001b"}`): "Caddy answered 403: host not allowed: x?",
		serve(500, "no JSON"):                               "Caddy answered 500: no JSON",
	} {
		client, err := newAdminClient(address)
		if err != nil {
			t.Fatal(err)
		}
		client.answerWithin = 10 * time.Second
		if address == silent.Addr().String() {
			client.answerWithin = 100 * time.Millisecond
		}
		_, err = client.locks(t.Context(), 0)
		if err == nil || strings.ReplaceAll(err.Error(), address, "ADDRESS") != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// docs/commands.md has the syntax of each command as the help has it, and each flag.
func TestCommandsDoc(t *testing.T) {
	doc, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(` +`).ReplaceAllString(string(doc), " ")
	for _, cmd := range adminCommands() {
		name, usage, _ := strings.Cut(strings.TrimSuffix(cmd.Use, addressUsage), " ")
		if want := "\ncaddy tcplock " + name + " " + usage + "\n"; !strings.Contains(text, want) {
			t.Errorf("found no %q", want)
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if want := "\n- `--" + f.Name + "`"; !strings.Contains(text, want) {
				t.Errorf("found no %q of %s", want, name)
			}
		})
	}
}
