package hook

import (
	"testing"
	"time"
)

// Two connections are counted, then the hook runs for a third. To take the first two back
// after that changes nothing: they belong to the count before the run.
func TestTakeBackAfterRun(t *testing.T) {
	s := new(Schedule)
	h := &Hook{On: Activate, Every: Every{Count: 2}, key: "k"}
	due := func(want bool) Tally {
		t.Helper()
		due, counted := s.Due(h, time.Now())
		if due != want {
			t.Errorf("found the hook due %t, expected %t", due, want)
		}
		return counted
	}
	first, second := due(true), due(false)
	third := due(true)
	s.TakeBack(first)
	s.TakeBack(second)
	due(false) // together with the third
	s.TakeBack(third)
	due(false)
	due(true)
}

// An operator runs a hook that never ran before. That is a run as any other: the hook is not
// due before its time has passed, or before as many connections as it says have come.
func TestBookHookThatNeverRan(t *testing.T) {
	now := time.Now()
	s := new(Schedule)
	hourly := &Hook{On: Activate, Every: Every{Interval: time.Hour}, key: "hourly"}
	s.Book(hourly, now)
	if due, _ := s.Due(hourly, now.Add(59*time.Minute)); due {
		t.Error("found the hook due within the hour, expected it not to be")
	}
	if due, _ := s.Due(hourly, now.Add(time.Hour)); !due {
		t.Error("found the hook not due after an hour, expected it to be")
	}
	third := &Hook{On: Activate, Every: Every{Count: 3}, key: "third"}
	for range 2 { // the second time the count is 2 already
		s.Book(third, now)
		for i := range 3 {
			if due, _ := s.Due(third, now); due {
				t.Errorf("found the hook due for connection %d after the run, expected the 4th to be the first", i+1)
			}
		}
		if due, _ := s.Due(third, now); !due {
			t.Error("found the hook not due for the 4th connection after the run, expected it to be")
		}
		_, _ = s.Due(third, now)
	}
	s.Book(&Hook{On: Activate, key: "always"}, now)
	if len(s.past) != 2 {
		t.Errorf("found the past of %d hooks, expected none of the one that runs every time", len(s.past))
	}
}
