package commands_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// The scripts run the commands of the docs as they stand there, in a shell. What a command prints must
// have the words and the shape that the page shows. Numbers, times and addresses may differ, and so may
// the number of lines of one shape. A line "..." in a page stands for any lines. TestCommandsAreRun in
// test/docs finds a command that no script runs. In a script, a command may end with "..." instead of
// its end.

// shows <page>:<section> <command...>: repeats a command of a page until it prints what the page shows.
func shows(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, 0, "shows <page>:<section> <command...>")
	manual(ts, args, caddytest.Patience, func(c caddytest.Command, got string, _ error) bool {
		return pattern(c.Output).MatchString(shape(got))
	})
}

// prints <page>:<section> <command...>: runs a command of a page once. It must print what the page
// shows.
func prints(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, 0, "prints <page>:<section> <command...>")
	manual(ts, args, 0, func(c caddytest.Command, got string, _ error) bool {
		return pattern(c.Output).MatchString(shape(got))
	})
}

// runs <page>:<section> <command...>: runs a command of a page once. It must succeed, or fail after "!".
// It is for commands of which the page does not show the output, or shows that of a busy day.
func runs(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, false, args, 2, 0, "runs <page>:<section> <command...>")
	manual(ts, args, 0, func(_ caddytest.Command, _ string, err error) bool { return (err != nil) == neg })
}

// begins <name> <page>:<section> <command...>: starts a command of a page in the background.
func begins(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, 0, "begins <name> <page>:<section> <command...>")
	command := documented(ts, args[1], strings.Join(args[2:], " "))[0]
	script := fmt.Sprintf("cd '%s' && exec env %s", ts.Getenv("WORK"), toScript(ts, command.Text))
	worldOf(ts).started[args[0]] = run(ts, []string{"sh", "-c", script})
}

func manual(ts *testscript.TestScript, args []string, patience time.Duration, right func(c caddytest.Command, got string, err error) bool) {
	commands := documented(ts, args[0], strings.Join(args[1:], " "))
	toRun := "exec 2>&1\n" + toScript(ts, commands[0].Text)
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := ts.Exec("sh", "-c", toRun)
		got := ts.ReadFile("stdout")
		for _, c := range commands {
			if right(c, got, err) {
				return
			}
		}
		if !time.Now().Before(end) {
			ts.Fatalf("%s: found, with error %v,\n%s\nof the shape\n%s\nexpected what the page shows: %+v", commands[0].Text, err, got, shape(got), commands)
		}
	}
}

// documented returns a command of a section of a page, each time that it stands there.
func documented(ts *testscript.TestScript, where, name string) (found []caddytest.Command) {
	page, section, _ := strings.Cut(where, ":")
	commands, err := caddytest.ReadCommands(page)
	ts.Check(err)
	for _, c := range commands {
		if c.Section == section && c.Is(name) {
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		ts.Fatalf("%s: found no command %q, expected it", where, name)
	}
	return found
}

// pattern matches what has the shape of these lines.
func pattern(lines []string) *regexp.Regexp {
	var p strings.Builder
	for line := range strings.Lines(shape(strings.Join(lines, "\n"))) {
		if line == "...\n" {
			p.WriteString(`(.*\n)*`)
		} else {
			p.WriteString(regexp.QuoteMeta(line))
		}
	}
	return regexp.MustCompile("^" + p.String() + "$")
}

var shapes = []struct {
	what *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`("\w+":)-?\d[\d.e+-]*`), "${1}N"},
	{regexp.MustCompile(`(localhost|\[[0-9a-f:]+\]|[0-9]+(\.[0-9]+){3})?:\d{3,5}\b`), "ADDRESS"},
	{regexp.MustCompile(`\b(\d+(\.\d+)?(ms|µs|h|m|s))+\b`), "TIME"},
	{regexp.MustCompile(`\d+(\.\d+)?`), "N"},
}

// shape returns text without what differs from run to run.
func shape(text string) string {
	for _, s := range shapes {
		text = s.what.ReplaceAllString(text, s.as)
	}
	var out strings.Builder
	before := ""
	for line := range strings.Lines(strings.TrimSpace(text)) {
		words := strings.Fields(line)
		for i, word := range words {
			if word == "-" { // there is no time yet
				words[i] = "TIME"
			}
		}
		if line = strings.Join(words, " ") + "\n"; line != before {
			out.WriteString(line)
		}
		before = line
	}
	return out.String()
}

// ports maps the ports in the docs to the variables with the addresses of a script. (setUp gives a
// variable $P<port> to those that have none here.)
var ports = map[string]string{"2019": "ADMIN", "9000": "LOCK", "9001": "OTHER", "8100": "SILENT", "8101": "NONE"}

// free are the ports of which a script has $P<port>, a free address.
var free = []string{"5432", "6432", "8080", "8081", "8443", "8503", "9002", "9100", "9101", "9180"}

var documentedPort = regexp.MustCompile(`(localhost"?[:, ] ?|:|-[lp] )(\d{4})\b`)

// toScript replaces the addresses and files of the docs by those of the script. "go run" would build
// the program anew: here caddy is the test itself, and CI builds ./cmd/caddy.
func toScript(ts *testscript.TestScript, command string) string {
	command = documentedPort.ReplaceAllStringFunc(command, func(found string) string {
		parts := documentedPort.FindStringSubmatch(found)
		name := ports[parts[2]]
		if name == "" {
			name = "P" + parts[2]
		}
		host, port, err := net.SplitHostPort(ts.Getenv(name))
		if err != nil {
			ts.Fatalf("found port %s in %q, expected one that the scripts know: %v", parts[2], command, err)
		}
		return strings.Replace(parts[1], "localhost", host, 1) + port
	})
	root, err := filepath.Abs(caddytest.Root)
	ts.Check(err)
	return strings.NewReplacer(
		"go run ./cmd/caddy", "caddy",
		"./caddy ", "caddy ",
		" examples/", " "+root+"/examples/",
		"=examples/", "="+root+"/examples/",
		"/tmp/", ts.Getenv("WORK")+"/",
		"--watch 10m", "--watch 100ms",
	).Replace(command)
}

// types <name> <line>: types a line into a program that runs in the background.
func types(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, 2, "types <name> <line>")
	programOf(ts, args[0]).Types(worldOf(ts).t, args[1]+"\n")
}

// says <name> <text>: waits until a program that runs in the background has printed the text.
func says(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, false, args, 2, 2, "says <name> <text>")
	p := programOf(ts, args[0])
	if neg {
		if strings.Contains(p.Out.String(), args[1]) {
			ts.Fatalf("%s: found %q, expected nothing like it", args[0], args[1])
		}
		return
	}
	p.Prints(worldOf(ts).t, args[1])
}

// listens <name> <address>: waits until a program that runs in the background accepts connections.
func listens(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, 2, "listens <name> <address>")
	programOf(ts, args[0]).Listens(worldOf(ts).t, args[1])
}

// stops <name>: interrupts a program that runs in the background, as Ctrl-C does.
func stops(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, 1, "stops <name>")
	programOf(ts, args[0]).Stop(worldOf(ts).t)
}

func programOf(ts *testscript.TestScript, name string) *caddytest.Program {
	p := worldOf(ts).started[name]
	if p == nil {
		ts.Fatalf("found no program %s", name)
	}
	return p
}

// journal prints the log of the script's Caddy, as journalctl -u caddy -o cat does for systemd's.
func journal() {
	log, err := os.Open(os.Getenv("LOG"))
	if err == nil {
		_, err = io.Copy(os.Stdout, log)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
