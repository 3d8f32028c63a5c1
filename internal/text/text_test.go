package text

import (
	"testing"
	"time"
)

func TestBrief(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                 "0s",
		0:                            "0s",
		time.Microsecond:             "<1ms",
		350 * time.Millisecond:       "350ms",
		999999 * time.Microsecond:    "999ms",
		time.Second:                  "1.0s",
		9999 * time.Millisecond:      "9.9s",
		59999 * time.Millisecond:     "59s",
		time.Minute:                  "1m00s",
		59*time.Minute + time.Second: "59m01s",
		time.Hour:                    "1h00m",
		23*time.Hour + 59*time.Minute + 59*time.Second: "23h59m",
		24 * time.Hour:   "1d00h",
		1000 * time.Hour: "41d16h",
	} {
		if got := Brief(d); got != want {
			t.Errorf("%s: got %q, expected %q", d, got, want)
		}
	}
}
