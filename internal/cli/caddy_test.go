package cli_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/seed-4dbef00f/caddy-tcplock" // the handler, for Validate
	"github.com/seed-4dbef00f/caddy-tcplock/internal/cli"
)

// Each command line becomes this server, in a config that Caddy accepts, without admin
// API and without a trace on disk. The first one is TCPLock's, word for word.
func TestCommandConfig(t *testing.T) {
	for line, want := range map[string]string{
		"-l 9000 -p 8100 -h localhost -n 1 -t 20000": `keep/:9000 {"handler":"tcplock","hold_timeout":20000000000,"slots":1,"to":"localhost:8100"}`,
		"-l 9000 -p 8100":                                       `keep/:9000 {"handler":"tcplock","to":"localhost:8100"}`,
		"-l 9000 -p 8100 -t 0":                                  `keep/:9000 {"handler":"tcplock","to":"localhost:8100"}`,
		"-l 9000 -p 8100 -t 20s":                                `keep/:9000 {"handler":"tcplock","hold_timeout":20000000000,"to":"localhost:8100"}`,
		"--listen 9000 --port 8100 --slots 3":                   `keep/:9000 {"handler":"tcplock","slots":3,"to":"localhost:8100"}`,
		"--listen=127.0.0.1:9000 --to=localhost:8100":           `keep/127.0.0.1:9000 {"handler":"tcplock","to":"localhost:8100"}`,
		"-l [::1]:9000 -h localhost -p 8100":                    `keep/[::1]:9000 {"handler":"tcplock","to":"localhost:8100"}`,
		"-l unix//run/lock.sock -p 8100":                        `unix//run/lock.sock {"handler":"tcplock","to":"localhost:8100"}`,
		"-l 9000 -h ::1 -p 8100":                                `keep/:9000 {"handler":"tcplock","to":"[::1]:8100"}`,
		"-l 9000 --host db.internal --port 5432":                `keep/:9000 {"handler":"tcplock","to":"db.internal:5432"}`,
		"-l 9000 --to unix//run/postgresql/.s.PGSQL.5432":       `keep/:9000 {"handler":"tcplock","to":"unix//run/postgresql/.s.PGSQL.5432"}`,
		"-l 9000 -p 8100 --max-waiting 0 --linger 0":            `keep/:9000 {"handler":"tcplock","linger":0,"max_waiting":0,"to":"localhost:8100"}`,
		"-l 9000 -p 8100 --drain 0 --name a --half-closed keep": `keep/:9000 {"drain":0,"half_closed":"keep","handler":"tcplock","name":"a","to":"localhost:8100"}`,
		"-l 9000 -p 8100 --max-waiting 7 --wait-timeout 1s --hold-timeout 2s --linger 3s --half-closed drop --settle 4s --drain 5s --name office": `keep/:9000 {"drain":5000000000,"half_closed":"drop","handler":"tcplock","hold_timeout":2000000000,"linger":3000000000,"max_waiting":7,"name":"office","settle":4000000000,"to":"localhost:8100","wait_timeout":1000000000}`,
	} {
		t.Run(line, func(t *testing.T) {
			cfg, err := cli.ParseCommand(line)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(cfg)
			if err != nil {
				t.Fatal(err)
			}
			listen, handlers, _ := strings.Cut(want, " ")
			want := `{"admin":{"disabled":true,"config":{"persist":false}},"apps":{"layer4":{"servers":{"tcplock":{"listen":["` +
				listen + `"],"routes":[{"handle":[` + handlers + `]}]}}}}}`
			if string(got) != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if err := caddy.Validate(cfg); err != nil {
				t.Errorf("refused by Caddy: %v", err)
			}
		})
	}
}

// --debug and -v turn on the debug log.
func TestCommandDebug(t *testing.T) {
	for _, flag := range []string{"--debug", "-v"} {
		cfg, err := cli.ParseCommand("-l 9000 -p 8100 " + flag)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Logging == nil || cfg.Logging.Logs["default"].Level != "DEBUG" {
			t.Errorf("%s: the default log is not at level DEBUG", flag)
		}
	}
}

// A wrong command line is refused, with what was found and what is expected.
func TestCommandErrors(t *testing.T) {
	const (
		address = "expected host:port with one port from 1 to 65535, or unix/<path>"
		listen  = address + ", or just the port"
	)
	for line, want := range map[string]string{
		"":                                "found no --listen, expected the port to listen on",
		"-p 8100":                         "found no --listen, expected the port to listen on",
		"-l 9000":                         "found neither --port nor --to, expected one of them, for the address of the service",
		"-l 9000 -h localhost":            "found neither --port nor --to, expected one of them, for the address of the service",
		"-l 9000 --to a:1 -p 8100":        "found --to beside --host or --port, expected one or the other",
		"-l 9000 --to a:1 -h b":           "found --to beside --host or --port, expected one or the other",
		"-l 9000 -p 8100 more":            `found "more", expected options, or one of the commands that --help lists`,
		"-l 0 -p 8100":                    `--listen: found "0", ` + listen,
		"-l 65536 -p 8100":                `--listen: found "65536", ` + listen,
		"-l 9000-9001 -p 8100":            `--listen: found "9000-9001", ` + listen,
		"-l :9000-9001 -p 8100":           `--listen: found ":9000-9001", ` + listen,
		"-l localhost -p 8100":            `--listen: found "localhost", ` + listen,
		"-l udp/:9000 -p 8100":            `--listen: found "udp/:9000", ` + listen,
		"-l unix/ -p 8100":                `--listen: found "unix/", ` + listen,
		"--listen= -p 8100":               "--listen: found an empty argument, expected a value",
		"-l 9000 -p http":                 `--port: found "http", expected a port from 1 to 65535`,
		"-l 9000 -p 8100-8101":            `--port: found "8100-8101", expected a port from 1 to 65535`,
		"-l 9000 -p 8100 -h localhost:80": `--host: found "localhost:80", expected a host name or an IP address`,
		"-l 9000 -p 8100 -h unix//a":      `--host: found "unix//a", expected a host name or an IP address`,
		"-h -l 9000 -p 8100":              `--host: found "-l", expected a host name or an IP address`,
		"-l 9000 --to localhost":          `--to: found "localhost", ` + address,
		"-l 9000 --to localhost:1-2":      `--to: found "localhost:1-2", ` + address,
		"-l 9000 --to udp/localhost:53":   `--to: found "udp/localhost:53", ` + address,
		"-l 9000 -p 8100 -n 0":            `--slots: found "0" slots, expected a whole number from 1 to 1000000`,
		"-l 9000 -p 8100 -t 1.5":          `--hold-timeout: found "1.5" without a unit, expected a duration such as 1.5s`,
		"-l 9000 -p 8100 -t -20s":         "hold_timeout: found -20s, expected a duration of 0 or more",
		"-l 9000 -p 8100 --linger 5":      `--linger: found "5" without a unit, expected a duration such as 5s`,
		"-l 9000 -p 8100 --max-waiting x": `--max-waiting: found "x", expected a whole number`,
		"-l 9000 -p 8100 --half-closed a": `half_closed: found "a", expected keep or drop`,
		"-l 9000 -p 8100 --name a/b":      `name: found "a/b", expected 1 to 64 letters, digits or any of . _ -, and not just dots`,
		"-l 9000 -p 8100 --restart":       "unknown flag: --restart",
	} {
		t.Run(line, func(t *testing.T) {
			_, err := cli.ParseCommand(line)
			if err == nil {
				t.Fatalf("accepted, expected: %s", want)
			}
			if got := strings.TrimSuffix(err.Error(), " (see tcplock --help)"); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}
