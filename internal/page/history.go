package page

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/record"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// historyLength is how many samples of a lock are kept: one a second, for five minutes.
const historyLength = 300

// sample has the figures of one second of a lock.
type sample [figures]float32

const (
	sampleWaiting = iota // waiters at its end
	sampleP50            // seconds in line of the connections that got a slot; NaN: there were none
	sampleP90
	sampleEnded   // connections that ended a second, without those that were refused
	sampleRefused // connections that were refused a second
	figures
)

var nan = float32(math.NaN())

var figureNames = [figures]string{"waiting", "p50", "p90", "ended", "refused"}

// history has the samples of a lock.
type history struct {
	lock    *lock.Lock
	name    string                // the lock's, at the last sample
	first   uint64                // the number of its first sample
	samples [historyLength]sample // by number, in a ring

	// The counts at the last sample.
	ended, refused uint64
	admitted       uint64 // see WaitsSince
}

// take takes a sample of all locks. It drops the history of a lock that is gone.
func (h *hub) take(now time.Time, all []lockAt) {
	seconds := float32(max(1, math.Round(now.Sub(h.sampled).Seconds())))
	h.samples++
	kept := make(map[*lock.Lock]*history, len(all))
	latest := make(map[string]sample)
	for _, at := range all {
		hist := h.histories[at.lock]
		if hist == nil {
			hist = &history{lock: at.lock, first: h.samples}
			if h.sampled.IsZero() {
				hist.next(&at.status, 1) // leaves out what was counted before the hub's first sample
			}
		}
		next := hist.next(&at.status, seconds)
		hist.samples[h.samples%historyLength] = next
		hist.name = at.status.Name
		kept[at.lock] = hist
		if !next.quiet() {
			latest[at.status.Name] = next
		}
	}
	h.sampled, h.histories, h.past = now, kept, nil
	h.latest = encoded(struct {
		N     uint64            `json:"n"`
		Locks map[string]sample `json:"locks"` // without those at which nothing happens
	}{h.samples, latest})
}

// next returns the sample of the time since the one before.
func (h *history) next(s *status.Lock, seconds float32) (next sample) {
	var ended, refused uint64
	for outcome, n := range s.Connections {
		if slices.Contains(status.RefusedOutcomes, outcome) {
			refused += n
		} else {
			ended += n
		}
	}
	next[sampleWaiting] = float32(s.Waiting)
	waits, admitted := h.lock.WaitsSince(h.admitted)
	next[sampleP50], next[sampleP90] = nan, nan
	if len(waits) > 0 {
		slices.Sort(waits)
		next[sampleP50], next[sampleP90] = float32(record.Percentile(waits, 50)), float32(record.Percentile(waits, 90))
	}
	next[sampleEnded] = float32(ended-h.ended) / seconds
	next[sampleRefused] = float32(refused-h.refused) / seconds
	h.ended, h.refused, h.admitted = ended, refused, admitted
	return next
}

// quiet reports whether no connection waited, came or ended.
func (s sample) quiet() bool {
	for _, value := range s {
		if value > 0 { // NaN is not
			return false
		}
	}
	return s[sampleP50] != s[sampleP50]
}

// MarshalJSON implements json.Marshaler. It returns the figures as an array.
func (s sample) MarshalJSON() ([]byte, error) {
	return appendFigures(nil, s[:]), nil
}

// appendFigures appends values as a JSON array, rounded to three decimals. NaN becomes null.
func appendFigures(to []byte, values []float32) []byte {
	to = append(to, '[')
	for i, value := range values {
		if i > 0 {
			to = append(to, ',')
		}
		if v := float64(value); math.IsNaN(v) {
			to = append(to, "null"...)
		} else {
			to = strconv.AppendFloat(to, math.Round(v*1000)/1000, 'f', -1, 64)
		}
	}
	return append(to, ']')
}

// history returns what a new viewer gets: the series of each lock, the oldest value first. It
// leaves out a series in which every value is 0.
func (h *hub) history() []byte {
	if h.past != nil {
		return h.past
	}
	all := make(map[string]map[string]json.RawMessage)
	values := make([]float32, 0, historyLength)
	for _, hist := range h.histories {
		series := make(map[string]json.RawMessage)
		for i, figure := range figureNames {
			values = values[:0]
			some := false
			for n := max(hist.first, h.samples-min(h.samples, historyLength-1)); n <= h.samples; n++ {
				value := hist.samples[n%historyLength][i]
				values = append(values, value)
				some = some || value > 0
			}
			if some {
				series[figure] = appendFigures(nil, values)
			}
		}
		if len(series) > 0 {
			all[hist.name] = series
		}
	}
	h.past = encoded(struct {
		Page  string                                `json:"page"` // a viewer with another version of the page loads it again
		N     uint64                                `json:"n"`
		Locks map[string]map[string]json.RawMessage `json:"locks"`
	}{pageHash, h.samples, all})
	return h.past
}
