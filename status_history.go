package tcplock

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/record"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// historyLength is how many samples of a lock are kept, one a second.
const historyLength = 300

// A sample is one second of a lock in figures.
type sample [figures]float32

const (
	sampleWaiting = iota // waiters at its end
	sampleP50            // seconds in line of those who got a slot; NaN if nobody did
	sampleP90
	sampleEnded   // connections that ended, a second, but ...
	sampleRefused // ... those that were refused
	figures
)

var nan = float32(math.NaN())

var figureNames = [figures]string{"waiting", "p50", "p90", "ended", "refused"}

// history is how a lock looked in the last minutes.
type history struct {
	lock    *lock
	name    string                // the lock's, at the last sample
	first   uint64                // the number of its first sample
	samples [historyLength]sample // by number, in a ring

	// What had been counted at the last sample.
	ended, refused uint64
	admitted       uint64 // as WaitsSince counts
}

// take takes a sample of all locks. A lock that is gone is forgotten.
func (b *board) take(now time.Time, all []lockAt) {
	seconds := float32(max(1, math.Round(now.Sub(b.sampled).Seconds())))
	b.samples++
	kept := make(map[*lock]*history, len(all))
	latest := make(map[string]sample)
	for _, at := range all {
		h := b.histories[at.lock]
		if h == nil {
			h = &history{lock: at.lock, first: b.samples}
			if b.sampled.IsZero() {
				h.next(&at.Lock, 1) // what was before the first sample is not of its second
			}
		}
		next := h.next(&at.Lock, seconds)
		h.samples[b.samples%historyLength] = next
		h.name = at.Name
		kept[at.lock] = h
		if !next.quiet() {
			latest[at.Name] = next
		}
	}
	b.sampled, b.histories, b.past = now, kept, nil
	b.latest = encoded(struct {
		N     uint64            `json:"n"`
		Locks map[string]sample `json:"locks"` // but those at which nothing happens
	}{b.samples, latest})
}

// next returns the sample since the one before.
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
	waits, admitted := h.lock.record.WaitsSince(h.admitted)
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

// quiet reports whether nobody waited, came or went.
func (s sample) quiet() bool {
	for _, value := range s {
		if value > 0 { // NaN is not
			return false
		}
	}
	return s[sampleP50] != s[sampleP50]
}

// MarshalJSON writes the figures in their order.
func (s sample) MarshalJSON() ([]byte, error) {
	return appendFigures(nil, s[:]), nil
}

// appendFigures writes them as JSON, to three decimals, without a value as null.
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

// history returns what a new viewer gets: the series of all locks, the oldest value first,
// but those without any.
func (b *board) history() []byte {
	if b.past != nil {
		return b.past
	}
	all := make(map[string]map[string]json.RawMessage)
	values := make([]float32, 0, historyLength)
	for _, h := range b.histories {
		series := make(map[string]json.RawMessage)
		for i, figure := range figureNames {
			values = values[:0]
			some := false
			for n := max(h.first, b.samples-min(b.samples, historyLength-1)); n <= b.samples; n++ {
				value := h.samples[n%historyLength][i]
				values = append(values, value)
				some = some || value > 0
			}
			if some {
				series[figure] = appendFigures(nil, values)
			}
		}
		if len(series) > 0 {
			all[h.name] = series
		}
	}
	b.past = encoded(struct {
		Page  string                                `json:"page"` // a viewer with another one should load it anew
		N     uint64                                `json:"n"`
		Locks map[string]map[string]json.RawMessage `json:"locks"`
	}{pageHash, b.samples, all})
	return b.past
}
