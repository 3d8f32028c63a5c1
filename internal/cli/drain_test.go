package cli

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// The wait for the last holder, on a fake clock: what each poll finds, when the wait ends, and
// with which exit code.
func TestDrainage(t *testing.T) {
	const always = time.Hour
	type span struct {
		until  time.Duration // since the beginning
		held   int           // -1: none, but hooks that must be alone
		paused bool
		err    error
	}
	for name, test := range map[string]struct {
		timeout time.Duration
		story   []span
		code    int           // of the exit; 1 is any other error
		after   time.Duration // at most slowestPoll before the end
	}{
		"no holders":          {0, []span{{always, 0, true, nil}}, 0, 0},
		"the last goes":       {0, []span{{5 * time.Second, 2, true, nil}, {always, 0, true, nil}}, 0, 5 * time.Second},
		"then a hook runs":    {0, []span{{5 * time.Second, 2, true, nil}, {9 * time.Second, -1, true, nil}, {always, 0, true, nil}}, 0, 9 * time.Second},
		"a hook stays":        {time.Minute, []span{{always, -1, true, nil}}, exitOutOfTime, time.Minute},
		"goes in time":        {time.Minute, []span{{5 * time.Second, 2, true, nil}, {always, 0, true, nil}}, 0, 5 * time.Second},
		"goes at the last":    {time.Minute, []span{{time.Minute - time.Millisecond, 1, true, nil}, {always, 0, true, nil}}, 0, time.Minute},
		"out of time":         {time.Minute, []span{{always, 1, true, nil}}, exitOutOfTime, time.Minute},
		"resumed":             {time.Minute, []span{{3 * time.Second, 1, true, nil}, {always, 1, false, nil}}, exitResumed, 3 * time.Second},
		"resumed at once":     {time.Minute, []span{{always, 1, false, nil}}, exitResumed, 0},
		"resumed and empty":   {0, []span{{3 * time.Second, 1, true, nil}, {always, 0, false, nil}}, exitResumed, 3 * time.Second},
		"a reload in between": {0, []span{{3 * time.Second, 1, true, nil}, {8 * time.Second, 0, true, errors.New("reset")}, {20 * time.Second, 1, true, nil}, {always, 0, true, nil}}, 0, 20 * time.Second},
		"two reloads":         {0, []span{{3 * time.Second, 1, true, nil}, {9 * time.Second, 0, true, errors.New("reset")}, {11 * time.Second, 1, true, nil}, {18 * time.Second, 0, true, errors.New("reset")}, {always, 0, true, nil}}, 0, 18 * time.Second},
		"Caddy is gone":       {0, []span{{3 * time.Second, 1, true, nil}, {always, 0, true, errors.New("refused")}}, 1, 3*time.Second + unreachableFor},
		"no answer, no time":  {5 * time.Second, []span{{always, 1, true, errors.New("refused")}}, exitOutOfTime, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				poll := func(context.Context) (status.Lock, error) {
					found := status.Lock{Name: "a", Slots: 2, Now: time.Now()}
					for _, s := range test.story {
						if time.Since(begin) >= s.until {
							continue
						}
						found.Held, found.Exclusive = max(s.held, 0), s.held < 0
						if s.paused {
							found.Paused = &status.Pause{Since: begin}
						}
						return found, s.err
					}
					return found, errors.New("the story is over")
				}
				found, _ := poll(t.Context())
				if found.Paused == nil {
					found.Paused = &status.Pause{Since: begin}
				}
				err := drained(t.Context(), &found, test.timeout, poll)
				code := 0
				if coded, ok := errors.AsType[*codedError](err); ok {
					code = coded.code
				} else if err != nil {
					code = 1
				}
				if code != test.code {
					t.Errorf("got exit code %d, error %v, expected %d", code, err, test.code)
				}
				late := slowestPoll
				if code == exitOutOfTime {
					late = 0
				}
				if after := time.Since(begin); after < test.after || after > test.after+late {
					t.Errorf("over after %s, expected %s", after, test.after)
				}
			})
		})
	}
}

// A lock that was resumed and paused again between two polls may have admitted connections.
// The new pause is not the one that the wait began with, so the wait ends.
func TestDrainagePausedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		found := status.Lock{Held: 1, Paused: &status.Pause{Since: begin}}
		err := drained(t.Context(), &found, 0, func(context.Context) (status.Lock, error) {
			return status.Lock{Held: 1, Paused: &status.Pause{Since: begin.Add(time.Millisecond)}}, nil
		})
		coded, ok := errors.AsType[*codedError](err)
		if !ok || coded.code != exitResumed {
			t.Errorf("got %v, expected exit code %d", coded, exitResumed)
		}
	})
}
