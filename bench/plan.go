package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"
)

// The load of the lock whose line is forecast. It keeps the slots busy for 60 % of the time.
const (
	planSlots = 4
	planHold  = 50 * time.Millisecond // on average
	planRate  = 48.                   // a second, on average
)

// plan compares the wait that the command forecasts with the measured wait of clients that come at
// random times and hold their slots for random times.
func plan(ctx context.Context, b *bench) ([]*result, error) {
	r := &result{
		Name:       "plan",
		Title:      fmt.Sprintf("Time in line, slots: %d, of clients at random, and the forecast of caddy tcplock plan for their rate and hold time", planSlots),
		References: []string{"forecast"},
		Quantities: []quantity{{"mean ms", false}, {"p90 ms", false}, {"p99 ms", false}},
	}
	s, err := newService(func(c *net.TCPConn) { // sends a byte when the wait is over
		defer c.Close()
		var hold [8]byte
		if n, _ := c.Read(hold[:]); n == len(hold) {
			_, _ = c.Write(hold[:1])
			us, _ := strconv.Atoi(string(hold[:]))
			time.Sleep(time.Duration(us) * time.Microsecond)
		}
	})
	if err != nil {
		return nil, err
	}
	defer s.stop()
	targets, err := b.put(ctx, front{service: s.addr(), slots: planSlots, locks: 1}, lockLinger0)
	if err != nil {
		return nil, err
	}
	for round := range b.rounds {
		err := errBusy
		for tries := 3; tries > 0 && errors.Is(err, errBusy); tries-- {
			err = b.planRound(ctx, r, targets[0], uint64(round))
		}
		if err != nil {
			return nil, err
		}
	}
	return []*result{r}, nil
}

func (b *bench) planRound(ctx context.Context, r *result, t *target, round uint64) error {
	c := crowd{random: rand.New(rand.NewPCG(1, round))}
	if err := c.come(ctx, t.addrs[0], 10*b.duration); err != nil {
		return err
	}
	rate := float64(len(c.waits)) / (10 * b.duration).Seconds()
	forecast, err := b.forecast(ctx, rate, mean(c.holds))
	if err != nil {
		return err
	}
	slices.Sort(c.waits)
	r.add("measured", mean(c.waits), quantile(c.waits, .9), quantile(c.waits, .99))
	r.add("forecast", forecast...)
	return nil
}

// crowd has clients that come at random, whether or not the clients before them are done.
type crowd struct {
	random *rand.Rand

	mu           sync.Mutex
	waits, holds []float64 // in milliseconds
	err          error     // of the last client that failed
}

func (c *crowd) come(ctx context.Context, addr netip.AddrPort, d time.Duration) error {
	var all sync.WaitGroup
	for next, end := time.Now(), time.Now().Add(d); next.Before(end) && ctx.Err() == nil; {
		time.Sleep(time.Until(next))
		hold := time.Duration(c.random.ExpFloat64() * float64(planHold))
		all.Go(func() {
			if err := c.client(ctx, addr, hold); err != nil {
				c.mu.Lock()
				c.err = err
				c.mu.Unlock()
			}
		})
		next = next.Add(time.Duration(c.random.ExpFloat64() / planRate * float64(time.Second)))
	}
	all.Wait()
	if c.err == nil && len(c.waits) == 0 {
		c.err = fmt.Errorf("no client has come within %s", d)
	}
	return c.err
}

func (c *crowd) client(ctx context.Context, addr netip.AddrPort, hold time.Duration) error {
	began := time.Now()
	conn, err := dial(ctx, 0, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%08d", hold.Microseconds()); err != nil {
		return err
	}
	var first [1]byte
	if _, err := conn.Read(first[:]); err != nil {
		return err
	}
	admitted := time.Now()
	if _, err := conn.Read(first[:]); err == nil {
		return fmt.Errorf("found more than one byte, expected the end")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waits = append(c.waits, float64(admitted.Sub(began))/float64(time.Millisecond))
	c.holds = append(c.holds, float64(time.Since(admitted))/float64(time.Millisecond))
	return nil
}

var errBusy = errors.New("the machine is too busy")

// forecast runs the command, and returns the quantities of the wait, in milliseconds.
func (b *bench) forecast(ctx context.Context, rate, holdMS float64) ([]float64, error) {
	cmd := exec.CommandContext(ctx, b.caddy, "tcplock", "plan", "--json", "--slots", strconv.Itoa(planSlots),
		"--rate", fmt.Sprintf("%f/s", rate), "--hold", fmt.Sprintf("%fms", holdMS))
	out, _ := cmd.Output() // the command fails if the slots are too few, but prints the forecast
	var said struct {
		Forecasts []struct {
			Line *struct {
				Mean float64 `json:"mean_wait_seconds"`
				P90  float64 `json:"p90_wait_seconds"`
				P99  float64 `json:"p99_wait_seconds"`
			}
		}
	}
	if err := json.Unmarshal(out, &said); err != nil || len(said.Forecasts) == 0 {
		return nil, fmt.Errorf("caddy tcplock plan: %w: found %q", err, out)
	}
	line := said.Forecasts[0].Line
	if line == nil {
		return nil, fmt.Errorf("%w: found %.1f clients a second of %.0f ms each, too many for %d slots", errBusy, rate, holdMS, planSlots)
	}
	return []float64{1000 * line.Mean, 1000 * line.P90, 1000 * line.P99}, nil
}

func mean(values []float64) (mean float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	return mean
}
