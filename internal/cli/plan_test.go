package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The commands in the manual print what the manual says.
func TestCapacityDoc(t *testing.T) {
	var doc []byte
	for _, file := range []string{"../../docs/capacity.md", "../../docs/commands.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		doc = append(doc, text...)
	}
	ran := 0
	blocks := regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(string(doc), -1)
	for _, block := range blocks {
		command, want, _ := strings.Cut(block[1], "\n")
		args, ok := strings.CutPrefix(command, "$ caddy tcplock plan ")
		if !ok {
			continue
		}
		ran++
		got, err := execute(append([]string{"plan"}, strings.Fields(args)...)...)
		if tooFew := strings.Contains(want, "Error: "); (err != nil) != tooFew || tooFew && err.Error() != "exiting with status 6" {
			t.Errorf("%s: error %v", command, err)
		}
		if got != want {
			t.Errorf("%s: got\n%swant\n%s", command, got, want)
		}
	}
	if ran < 7 {
		t.Errorf("found %d commands, expected at least 7", ran)
	}
}

// A wrong or incomplete command line is refused, with what was found and what is expected.
func TestPlanCommandErrors(t *testing.T) {
	const example = ", expected a rate such as 3/s, 90/m or 500/h"
	for line, want := range map[string]string{
		"":                                  "found no --rate, expected how many connections come, such as 3/s, 90/m or 500/h",
		"--rate 3/s":                        "found no --hold, expected how long a connection holds a slot on average, such as 2s",
		"--rate 3/s --hold 2s":              "found neither --slots nor --wait-p99, expected one of them or both",
		"--rate 3":                          `--rate: found "3"` + example,
		"--rate 3/d":                        `--rate: found "3/d"` + example,
		"--rate /s":                         `--rate: found "/s"` + example,
		"--rate 0/s":                        `--rate: found "0/s"` + example,
		"--rate -3/s":                       `--rate: found "-3/s"` + example,
		"--rate NaN/s":                      `--rate: found "NaN/s"` + example,
		"--rate Inf/s":                      `--rate: found "Inf/s"` + example,
		"--rate 1e999/s":                    `--rate: found "1e999/s"` + example,
		"--rate=":                           "--rate: found an empty argument, expected a value",
		"--hold 2":                          `--hold: found "2" without a unit, expected a duration such as 2s`,
		"--hold 0":                          "--hold: found 0, expected a duration of more than 0",
		"--slots 0":                         `--slots: found "0" slots, expected a whole number from 1 to 1000000`,
		"--wait-p99 -1s":                    "--wait-p99: found -1s, expected a duration of 0 or more",
		"--variability -1":                  `--variability: found "-1", expected a number from 0 to 100`,
		"--variability NaN":                 `--variability: found "NaN", expected a number from 0 to 100`,
		"--max-waiting -1":                  `--max-waiting: found "-1", expected a whole number from 0 to 1000000`,
		"--watch 0s":                        "--watch: found 0s, expected a duration of more than 0",
		"a b":                               "found 2 arguments, expected a lock",
		"--max-waiting 5 --variability 0":   "found --variability beside --max-waiting, expected one or the other: with --max-waiting, the formulas hold for a variability of 1 only",
		"a --address 127.0.0.1:1 --slots 3": "found no Caddy at 127.0.0.1:1: it is not running, or its admin API is off or elsewhere (see --address and --config)",
		"--rate 3/s --hold 2s --slots 4 --nothing": "unknown flag: --nothing",
	} {
		t.Run(line, func(t *testing.T) {
			_, err := execute(append([]string{"plan"}, strings.Fields(line)...)...)
			if err == nil {
				t.Fatalf("accepted, expected: %s", want)
			}
			if got := strings.TrimSuffix(err.Error(), " (see caddy tcplock plan --help)"); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// What plan says, and with which error, for slots that are enough, just enough and too few.
func TestPlanVerdict(t *testing.T) {
	target := func(d time.Duration) *float64 { s := d.Seconds(); return &s }
	for line, test := range map[string]struct{ says, fails string }{
		"--slots 8":                                    {"With a line of up to 13, fewer than 1 of 100 are refused:", ""},
		"--slots 6":                                    {"With 6 slots the line grows for ever, if slowly.\nIt takes 7 slots for a line that does not grow for ever.\n", "found 6 slots to be too few, expected a line that does not grow for ever"},
		"--slots 5":                                    {"With 5 slots the line grows for ever, by 30 a minute.\nIt takes 7 slots for a line that does not grow for ever.\n", "found 5 slots to be too few, expected a line that does not grow for ever"},
		"--slots 5 --max-waiting 3":                    {"With a line of up to 3, 24% are refused:", ""},
		"--wait-p99 10s":                               {"It takes 7 slots.\nWith a line of up to 27, fewer than 1 of 100 are refused:", ""},
		"--slots 7 --wait-p99 10s":                     {"7 slots will be enough, and no fewer.\nWith a line of up to 27", ""},
		"--slots 8 --wait-p99 10s":                     {"8 slots will be enough, 7 would be too.\nWith a line of up to 13", ""},
		"--slots 7 --wait-p99 5s":                      {"It takes 8 slots.\nWith a line of up to 13", "found 7 slots to be too few, expected 99 of 100 to have a slot within 5s"},
		"--slots 7 --wait-p99 5s --variability 0":      {"7 slots will be enough, and no fewer.\nWith a line of up to 15", ""},
		"--slots 8 --wait-p99 10s --max-waiting 3":     {"It takes 10 slots.\nWith a line of up to 3", "found 8 slots to be too few, expected 99 of 100 to have a slot within 10s"},
		"--rate 1e9/s --wait-p99 10s":                  {"A lock may have 1000000 slots, and that is not enough.\n", "found 1000000 slots to be too few, expected 99 of 100 to have a slot within 10s"},
		"--rate 1e9/s --slots 3":                       {"A lock may have 1000000 slots, and that is not enough.\n", "found 3 slots to be too few, expected a line that does not grow for ever"},
		"--rate 180/m --slots 1000000":                 {"With a line of up to 1, fewer than 1 of 100 are refused:", ""},
		"--rate 1e-9/s --slots 1 --max-waiting 0":      {"With a line of up to 0, <0.1% are refused:", ""},
		"--rate 1e9/s --slots 1 --max-waiting 1000000": {"With a line of up to 1000000, >99.9% are refused:", ""},
	} {
		t.Run(line, func(t *testing.T) {
			out, err := execute(append([]string{"plan", "--rate", "3/s", "--hold", "2s"}, strings.Fields(line)...)...)
			if !strings.Contains(out, test.says) {
				t.Errorf("found no %q in\n%s", test.says, out)
			}
			if (err != nil) != (test.fails != "") || err != nil && !strings.Contains(out, "Error: "+test.fails+"\n") {
				t.Errorf("error %v, expected %q in\n%s", err, test.fails, out)
			}
			out, _ = execute(append([]string{"plan", "--json", "--rate", "3/s", "--hold", "2s"}, strings.Fields(line)...)...)
			answer, _, _ := strings.Cut(out, "\n")
			var got planAnswer
			if err := json.Unmarshal([]byte(answer), &got); err != nil || got.Enough != (test.fails == "") {
				t.Errorf("--json: error %v, found %s", err, out)
			}
		})
	}
	a := planAnswer{Slots: 4, TargetSeconds: target(time.Second)}
	if coded, ok := errors.AsType[*codedError](a.verdict()); !ok || coded.code != 6 {
		t.Errorf("found %v, expected exit code 6", a.verdict())
	}
}

func TestPlanPercent(t *testing.T) {
	for part, want := range map[float64]string{
		0: "0%", 1e-300: "<0.1%", .002: "0.2%", .01: "1%", .5: "50%", .99: "99%", .994: "99.4%", .9999: ">99.9%", 1: "100%",
	} {
		if got := percent(part); got != want {
			t.Errorf("%g: got %s, expected %s", part, got, want)
		}
	}
}

// A lock is watched: 2 connections come each second, and each holds one of 3 slots for one
// second.
func TestPlanWatch(t *testing.T) {
	for name, test := range map[string]struct {
		change func(s *status.Lock, after time.Duration) error
		fails  string
	}{
		"steady": {func(*status.Lock, time.Duration) error { return nil }, ""},
		"paused": {func(s *status.Lock, after time.Duration) error { s.Paused = &status.Pause{Since: s.Now}; return nil }, "found it paused, expected it to admit connections"},
		"anew": {func(s *status.Lock, after time.Duration) error {
			if after > 30*time.Second {
				clear(s.Connections)
			}
			return nil
		}, "found its counts reset, as by a restart of Caddy, expected them to go on: watch it again"},
		"empty":    {func(s *status.Lock, _ time.Duration) error { s.Held = 0; clear(s.Connections); return nil }, "found 0 connections that came, 0 that left and 0 holders within 1m0s, expected some of each: watch it for longer"},
		"no Caddy": {func(*status.Lock, time.Duration) error { return errors.New("found no Caddy") }, "found no Caddy"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				found, err := watchLock(t.Context(), time.Minute, func(context.Context) (status.Lock, error) {
					after := time.Since(begin)
					s := status.Lock{Slots: 3, Held: 2, Now: time.Now(), Connections: map[string]uint64{status.Served: 7 + uint64(after/time.Second), status.HoldTimeout: 9 + uint64(after/time.Second)}}
					return s, test.change(&s, after)
				})
				if test.fails != "" {
					if err == nil || err.Error() != test.fails {
						t.Errorf("found error %v, expected %s", err, test.fails)
					}
					return
				}
				if err != nil || !roughly(found.Rate, 2, .01) || !roughly(found.Hold, 1, .01) || found.Slots != 3 {
					t.Errorf("found %+v, error %v, expected 2 a second, of a second each, at 3 slots", found, err)
				}
			})
		})
	}
}

// A flag goes before what the lock says. If the flags say all of it, plan does not watch the lock.
func TestPlanOfLock(t *testing.T) {
	status := status.Lock{Name: "a", Slots: 9}
	api := newFakeAdmin(t, answerJSON(status), status)
	out, err := execute("plan", "a", "--address", api.address(), "--rate", "3/s", "--hold", "2s", "--wait-p99", "10s")
	if want := "9 slots will be enough, 7 would be too."; err != nil || !strings.Contains(out, want) {
		t.Errorf("error %v, found no %q in\n%s", err, want, out)
	}
	out, err = execute("plan", "a", "--address", api.address(), "--watch", "1ms", "--slots", "3")
	if want := "a: found 0 connections that came"; err == nil || !strings.Contains(out, want) {
		t.Errorf("error %v, found no %q in\n%s", err, want, out)
	}
}

// roughly reports whether a and b differ by less than this part of b.
func roughly(a, b, within float64) bool { return a > b*(1-within) && a < b*(1+within) }
