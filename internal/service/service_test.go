package service

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/vars"
)

// A service in a Caddyfile gives the same JSON as one written by hand. Wrong, duplicate and
// contradictory values are refused. The error says what was found and what is expected.
func TestServiceConfig(t *testing.T) {
	const placeholder = `expected {l4.tcplock.name|slot|worker|worker_host|worker_port} or a global one such as {env.*} (a plain brace is \{)`
	for input, want := range map[string]string{
		"service soffice":         `{"command":"soffice"}`,
		"service soffice --a b c": `{"command":"soffice","args":["--a","b","c"]}`,
		`service soffice --port={l4.tcplock.worker_port} {
			dir /srv/{l4.tcplock.slot}
			env A {env.HOME}
			env B {l4.tcplock.worker_host}
			start lazy
			ready {l4.tcplock.worker}
			ready_timeout 2m
			restart every 20
			restart every 1h
			max_memory 1GiB
			stop_idle 10m
			stop_timeout 3s
		}`: `{"command":"soffice","args":["--port={l4.tcplock.worker_port}"],"dir":"/srv/{l4.tcplock.slot}",` +
			`"env":{"A":"{env.HOME}","B":"{l4.tcplock.worker_host}"},"start":"lazy","ready":"{l4.tcplock.worker}",` +
			`"ready_timeout":120000000000,"restart_every":20,"restart_interval":3600000000000,"max_memory":1073741824,` +
			`"stop_idle":600000000000,"stop_timeout":3000000000}`,
		"service a {\n ready exec curl -f {l4.tcplock.worker}\n}": `{"command":"a","ready_command":["curl","-f","{l4.tcplock.worker}"]}`,

		"service":                       "service: found 0 arguments, expected a command and its arguments, at Testfile:1",
		`service ""`:                    "service: command: found none, expected a name or a path, at Testfile:1",
		"service {env.SHELL}":           `service: command: found "{env.SHELL}", expected a name or a path without placeholders, at Testfile:1`,
		"service a {l4.tcplock.client}": `service: args: found "{l4.tcplock.client}": unrecognized placeholder {l4.tcplock.client}, ` + placeholder + ", at Testfile:1",
		"service a {\n dir {l4.tls.server_name}\n}":            `service: dir: found "{l4.tls.server_name}": unrecognized placeholder {l4.tls.server_name}, ` + placeholder + ", at Testfile:2",
		"service a {\n env A {http.request.host}\n}":           `service: env: A: found "{http.request.host}": unrecognized placeholder {http.request.host}, ` + placeholder + ", at Testfile:2",
		"service a {\n env A=B 1\n}":                           `service: env: found name "A=B", expected one without = and placeholders, at Testfile:2`,
		"service a {\n env A 1\n env A 2\n}":                   "env: found A a second time, expected once, at Testfile:3",
		"service a {\n start never\n}":                         `service: start: found "never", expected eager or lazy, at Testfile:2`,
		"service a {\n ready\n}":                               `ready: found "", expected an address, or exec and a command, at Testfile:2`,
		"service a {\n ready exec\n}":                          `ready: found "exec", expected an address, or exec and a command, at Testfile:2`,
		"service a {\n ready a:1 b:1\n}":                       `ready: found "a:1 b:1", expected an address, or exec and a command, at Testfile:2`,
		"service a {\n ready a\n}":                             `service: ready: address: found "a", expected host:port or unix//path, at Testfile:2`,
		"service a {\n ready a:1\n ready exec b\n}":            "ready: found a second time, expected once, at Testfile:3",
		"service a {\n ready exec {env.SHELL}\n}":              `service: ready_command: command: found "{env.SHELL}", expected a name or a path without placeholders, at Testfile:2`,
		"service a {\n ready exec b {l4.tcplock.waited}\n}":    `service: ready_command: found "{l4.tcplock.waited}": unrecognized placeholder {l4.tcplock.waited}, ` + placeholder + ", at Testfile:2",
		"service a {\n ready {l4.conn.remote_addr}\n}":         `service: ready: found "{l4.conn.remote_addr}": unrecognized placeholder {l4.conn.remote_addr}, ` + placeholder + ", at Testfile:2",
		"service a {\n ready_timeout 1\n}":                     `ready_timeout: found "1" without a unit, expected a duration such as 1s, at Testfile:2`,
		"service a {\n restart 20\n}":                          "restart: found 1 argument, expected 2, at Testfile:2",
		"service a {\n restart after 20\n}":                    `restart: found "after", expected every, at Testfile:2`,
		"service a {\n restart every 0\n}":                     "restart: found 0, expected a number or a duration, more than 0, at Testfile:2",
		"service a {\n restart every 20\n restart every 30\n}": "restart: found every 30, expected at most one number and one duration, at Testfile:3",
		"service a {\n restart every 1h\n restart every 2h\n}": "restart: found every 2h, expected at most one number and one duration, at Testfile:3",
		"service a {\n max_memory much\n}":                     `max_memory: found "much", expected a number of bytes, or a size such as 1GiB or 800MB, at Testfile:2`,
		"service a {\n max_memory -1GiB\n}":                    `max_memory: found "-1GiB", expected a number of bytes, or a size such as 1GiB or 800MB, at Testfile:2`,
		"service a {\n stop_idle -1s\n}":                       "service: stop_idle: found -1s, expected a duration of 0 or more, at Testfile:2",
		"service a {\n shell\n}":                               `found option "shell", expected one of dir, env, max_memory, ready, ready_timeout, restart, start, stop_idle, stop_timeout, at Testfile:2`,
	} {
		d := caddyfile.NewTestDispenser(input)
		d.Next()
		s := new(Service)
		err := s.UnmarshalCaddyfile(d)
		got := fmt.Sprint(err)
		if err == nil {
			raw, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			got = string(raw)
		}
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", input, got, want)
		}
	}
}

// Values in JSON are checked too: no table of a Caddyfile has refused them before.
func TestServiceJSON(t *testing.T) {
	for input, want := range map[string]string{
		`{"command":"a","max_memory":"1GiB","ready":"a:1"}`:   "<nil>",
		`{"command":"a","max_memory":1000}`:                   "<nil>",
		`{"command":"a","max_memory":-1}`:                     `size: found "-1", expected a number of bytes`,
		`{"command":"a","max_memory":"1 lot"}`:                `size: found "1 lot", expected a number of bytes`,
		`{}`:                                                  "command: found none",
		`{"command":"a","ready":"a:1","ready_command":["b"]}`: "ready: found an address and a command, expected only one of them",
		`{"command":"a","ready_command":[]}`:                  "ready_command: command: found none",
		`{"command":"a","restart_every":-1}`:                  "restart_every: found -1, expected 0 (never) or more",
		`{"command":"a","restart_interval":-1}`:               "restart_interval: found -1ns, expected a duration of 0 or more",
		`{"command":"a","ready_timeout":"-1s"}`:               "ready_timeout: found -1s",
		`{"command":"a","stop_timeout":"-1s"}`:                "stop_timeout: found -1s",
	} {
		s := new(Service)
		err := json.Unmarshal([]byte(input), s)
		if err == nil {
			err = s.Check()
		}
		if got := fmt.Sprint(err); !strings.HasPrefix(got, want) {
			t.Errorf("%s\n got %s\nwant %s", input, got, want)
		}
	}
}

// Without workers, a service has to say when it is ready. The process of another slot must
// not answer for it: where something answers already, no process is started.
func TestServiceReadyRequired(t *testing.T) {
	const shared = "service: ready: found a:1 for slots 1 and 2, expected an address of its own for each slot"
	for _, test := range []struct {
		service   Service
		addresses []string
		want      string
	}{
		{Service{}, []string{"a:1", "a:2"}, ""},
		{Service{}, []string{""}, "service: found neither ready nor workers"},
		{Service{Ready: "a:1"}, []string{""}, ""},
		{Service{ReadyCommand: []string{"a"}}, []string{"", ""}, ""},
		{Service{Ready: "a:1"}, []string{"", ""}, shared},
		{Service{Ready: "a:1"}, []string{"b:1", "b:2"}, shared},
		{Service{Ready: "{l4.tcplock.worker_host}:1"}, []string{"a:2", "a:3"}, shared},
		{Service{Ready: "{l4.tcplock.worker_host}:1"}, []string{"a:2", "b:2"}, ""},
		{Service{Ready: "a:1{l4.tcplock.slot}"}, []string{"", ""}, ""},
		{Service{Ready: "{env.NO_SUCH_VARIABLE}"}, []string{"", ""}, ""},
	} {
		err := test.service.CheckSlots(test.addresses)
		if (err == nil) != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%+v with addresses %q: found %v, expected %q", test.service, test.addresses, err, test.want)
		}
	}
}

// A process knows its slot and its worker by placeholders, in parts as well.
func TestServicePlaceholders(t *testing.T) {
	const all = "{l4.tcplock.name} {l4.tcplock.slot} {l4.tcplock.worker} {l4.tcplock.worker_host} {l4.tcplock.worker_port}"
	for _, test := range []struct{ worker, want string }{
		{"localhost:8101", "soffice 2 localhost:8101 localhost 8101"},
		{"[::1]:8101", "soffice 2 [::1]:8101 ::1 8101"},
		{"unix//run/s", "soffice 2 unix//run/s /run/s "},
		{"", "soffice 2   "},
	} {
		got, err := vars.Replacer(ID{"soffice", 2, test.worker}.values()).ReplaceOrErr(all, false, true)
		if err != nil || got != test.want {
			t.Errorf("found %q, %v, expected %q", got, err, test.want)
		}
	}
}

// Some settings mean another process. A running process can get the others.
func TestServiceSameProcess(t *testing.T) {
	a := &Service{Command: "a", Args: []string{"b"}, Dir: "c", Env: map[string]string{"d": "e"}}
	for same, others := range map[bool][]Service{
		true: {*a, {Command: "a", Args: []string{"b"}, Dir: "c", Env: map[string]string{"d": "e"},
			Start: "lazy", Ready: "a:1", RestartEvery: 1, MaxMemory: 1, StopIdle: 1, StopTimeout: 1}},
		false: {
			{Command: "x", Args: a.Args, Dir: a.Dir, Env: a.Env},
			{Command: a.Command, Dir: a.Dir, Env: a.Env},
			{Command: a.Command, Args: a.Args, Env: a.Env},
			{Command: a.Command, Args: a.Args, Dir: a.Dir},
		},
	} {
		for _, other := range others {
			if got := other.sameProcess(a); got != same {
				t.Errorf("%+v: found %v, expected %v", other, got, same)
			}
		}
	}
}
