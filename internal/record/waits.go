package record

import (
	"slices"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Waits returns percentiles of the times in line of the last connections that were granted a slot.
func (r *Record) Waits() status.Waits {
	waits, _ := r.WaitsSince(0)
	if len(waits) == 0 {
		return status.Waits{}
	}
	slices.Sort(waits)
	return status.Waits{
		Count:      len(waits),
		P50Seconds: Percentile(waits, 50),
		P90Seconds: Percentile(waits, 90),
		P99Seconds: Percentile(waits, 99),
		MaxSeconds: Percentile(waits, 100),
	}
}

// Percentile returns the pth percentile in seconds: the smallest value that p percent do not
// exceed. There must be at least one value, and p is 1 to 100.
func Percentile(sorted []time.Duration, p int) float64 {
	return sorted[(len(sorted)*p+99)/100-1].Seconds()
}
