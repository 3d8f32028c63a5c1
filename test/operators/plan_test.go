package operators_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// A lock under load, as the plan has it: clients come at random, and hold their slots at
// random. The command observes how many come and how long they hold, and its forecast is what
// the lock measures.
//
// With some hundred clients chance is large, and on a busy machine holds take longer than they
// should. So the forecast is compared with what was observed, and the bounds are wide. They
// catch a wrong formula or unit, not a wrong digit.
func TestPlanOfLockUnderLoad(t *testing.T) {
	caddytest.Slow(t)
	if caddytest.Apart(t) {
		return
	}
	const (
		rate, slots = 30., 4
		hold        = 100 * time.Millisecond
	)
	svc := caddytest.NewService(t, func(conn *net.TCPConn) { // holds each client for as long as it says
		line := make([]byte, 12)
		if _, err := io.ReadFull(conn, line); err == nil {
			micros, _ := strconv.Atoi(strings.TrimSpace(string(line)))
			time.Sleep(time.Duration(micros) * time.Microsecond)
		}
	})
	addr := caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, fmt.Sprintf("tcplock %d {\nlinger 0\n}", slots), svc.Addr))
	caddytest.Load(t, config)

	caddytest.Caddy(t) // makes the program before the clock runs
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var came int
	begin := time.Now()
	clients.Go(func() {
		random := rand.New(rand.NewPCG(20, 12))
		for next := begin; ; came++ {
			next = next.Add(time.Duration(random.ExpFloat64() / rate * 1e9))
			micros := int64(random.ExpFloat64() * float64(hold.Microseconds()))
			select {
			case <-stop:
				return
			case <-time.After(time.Until(next)):
			}
			clients.Go(func() {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(caddytest.Longest))
				fmt.Fprintf(conn, "%12d", micros)
				_, _ = io.Copy(io.Discard, conn)
			})
		}
	})
	seen := askPlan(t, "default", "--watch", "6s", "--address", a.Addr)
	took := time.Since(begin).Seconds()
	close(stop)
	clients.Wait()
	caddytest.InLine(t, "default", 0, 0)

	_, metrics := a.Ask(t, "GET", "/metrics")
	metric := func(name string) float64 {
		line := regexp.MustCompile(`(?m)^caddy_tcplock_` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(metrics)
		if line == nil {
			t.Fatalf("found no metric %s in\n%s", name, metrics)
		}
		value, _ := strconv.ParseFloat(line[1], 64)
		return value
	}
	admitted := metric(`wait_seconds_count{lock="default"}`)
	meanWait := metric(`wait_seconds_sum{lock="default"}`) / admitted
	mustWait := 1 - metric(`wait_seconds_bucket{lock="default",le="0.001"}`)/admitted
	meanHold := metric(`hold_seconds_sum{lock="default"}`) / admitted
	foretold := askPlan(t, "--rate", fmt.Sprintf("%g/s", admitted/took), "--hold", fmt.Sprintf("%.9fs", meanHold), "--slots", strconv.Itoa(slots))
	t.Logf("%d came in %.1f s: %.1f/s of %.1f ms each, %.2f of them waited, %.1f ms on average; seen %+v; foretold %+v",
		came, took, admitted/took, 1000*meanHold, mustWait, 1000*meanWait, seen, foretold)

	near := func(what string, found, expected, factor float64) {
		t.Helper()
		if !(found > expected/factor && found < expected*factor) {
			t.Errorf("found %s %.4g, expected about %.4g", what, found, expected)
		}
	}
	if int(admitted) != came || seen.Slots != slots {
		t.Errorf("found that %g were admitted to %d slots, expected all %d that came, and %d", admitted, seen.Slots, came, slots)
	}
	near("rate", seen.Rate, admitted/took, 1.6)
	near("hold time", seen.Hold, meanHold, 1.6)
	expected := lineForecast{MustWait: 1} // if the machine is so busy that the line grows for ever
	if line := foretold.Forecasts[0].Line; line != nil {
		expected = *line
	}
	if math.Abs(mustWait-expected.MustWait) > .3 {
		t.Errorf("found that %.2f waited, expected about %.2f", mustWait, expected.MustWait)
	}
	if foretold.Load < .85*slots { // with more, the mean takes far longer to show
		near("mean wait", meanWait, expected.MeanWait, 5)
	}
}

type lineForecast struct {
	MustWait float64 `json:"must_wait"`
	MeanWait float64 `json:"mean_wait_seconds"`
}

type planned struct {
	Rate      float64 `json:"rate_per_second"`
	Hold      float64 `json:"hold_seconds"`
	Load      float64
	Slots     int
	Forecasts []struct{ Line *lineForecast }
}

// askPlan runs the command plan.
func askPlan(t *testing.T, args ...string) (p planned) {
	t.Helper()
	answer, _ := caddytest.StartCommand(t, append([]string{"plan", "--json"}, args...)...).Result(t)
	text := answer[max(0, strings.Index(answer, "{")):] // what comes before is that it watches
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&p); err != nil || len(p.Forecasts) == 0 {
		t.Fatalf("error %v, found %s", err, answer)
	}
	return p
}
