package pool

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// onLock is a lock that notes when slots are in service again.
type onLock struct {
	start time.Time
	in    []time.Duration
}

func (l *onLock) Out(int) bool                { return true }
func (l *onLock) In(int)                      { l.in = append(l.in, time.Since(l.start)) }
func (l *onLock) Name() string                { return "test" }
func (l *onLock) Logger() *zap.Logger         { return zap.NewNop() }
func (l *onLock) Publish(status.Event)        {}
func (l *onLock) CountUnreachable(int)        {}
func (l *onLock) PublishProcess(status.Event) {}

// A worker that stays down is left out for a time that doubles, up to a bound. Where it stands behind all
// slots, the bound is low: no other worker serves the line meanwhile.
func TestLeftOut(t *testing.T) {
	const ms = time.Millisecond
	for slot, want := range map[int][]time.Duration{
		0: {500 * ms, 1000 * ms, 2000 * ms, 4000 * ms, 5000 * ms, 5000 * ms, 5000 * ms, 5000 * ms},
		1: {500 * ms, 1000 * ms, 2000 * ms, 4000 * ms, 8000 * ms, 16000 * ms, 30000 * ms, 30000 * ms},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := new(onLock)
			w := &Worker{pool: &Pool{Lock: l}, Slot: slot}
			for range want {
				l.start = time.Now()
				w.Down(errors.New("refused"))
				time.Sleep(time.Minute)
				synctest.Wait()
			}
			if !slices.Equal(l.in, want) {
				t.Errorf("slot %d: found it in service again after %v, expected %v", slot, l.in, want)
			}
		})
	}
}
