package record

import (
	"math"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// A native histogram keeps its resolution for all times up to a quarter of an hour. Much longer
// times halve it at most, and the total is never lost.
func TestNativeHistogram(t *testing.T) {
	const observations = 10000
	for _, test := range []struct {
		longest time.Duration
		growth  float64 // from one bucket to the next
	}{{15 * time.Minute, 1.1}, {30 * 24 * time.Hour, 1.2}} {
		m := newMetrics()
		shortest := 20e-6 // seconds
		for i := range observations {
			m.Hold.Observe(shortest * math.Pow(test.longest.Seconds()/shortest, float64(i)/observations))
		}
		var metric dto.Metric
		if err := m.Hold.Write(&metric); err != nil {
			t.Fatal(err)
		}
		h := metric.GetHistogram()
		if growth := math.Exp2(math.Exp2(-float64(h.GetSchema()))); growth > test.growth || h.GetSampleCount() != observations {
			t.Errorf("up to %s: found %d observations, in buckets that grow by %.3f, expected %d and at most %.1f",
				test.longest, h.GetSampleCount(), growth, observations, test.growth)
		}
	}
}
