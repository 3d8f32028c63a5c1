package relay_test

import (
	"fmt"
	"time"
)

// schedule is what the two sides of one connection do. It is read from bytes, so that a fuzzer can change it.
type schedule struct {
	waits bool // the client does all that it does while another connection has the slot
	stays bool // the client does not close before the slot is free
	client,
	service side
}

// side is what a client or a service does. It sends in one goroutine, and reads in another.
type side struct {
	steps []step
	end   string
	reads string
	small bool // small buffers and segments: soon it takes nothing until it reads
}

// step sends so many bytes, and then pauses.
type step struct {
	size  int
	pause time.Duration
}

// The ends: what a side does after it has sent all.
const (
	halfCloses = "half-closes" // and reads to the end
	answers    = "answers"     // the same, but it sends nothing before it has read to the end
	stands     = "stands"      // reads to the end, and closes then
	closes     = "closes"      // at once, whatever it has not read
	resets     = "resets"      // at once
)

// The ways of reading.
const (
	eager = "eagerly"
	sips  = "sipping" // a little at a time, with pauses
	late  = "late"    // after it has sent all
	never = "never"
)

var (
	ends  = [...]string{halfCloses, answers, stands, closes, resets, halfCloses, answers, stands}
	reads = [...]string{eager, sips, late, never, eager, sips, late, eager}
	sizes = [...]int{1, 10, 1000, 5000, 32 << 10, 32<<10 + 1, 100_000, 400_000}
)

const (
	mostSteps  = 12        // of a side
	mostBytes  = 1_000_000 // that a side sends
	inSocket   = 16 << 10  // so many bytes fit into the sockets on the way, even if no side reads
	sipPauses  = 10        // after them a side that sips reads eagerly, or large streams would last too long
	shortPause = time.Millisecond
)

// newSchedule reads a schedule: one byte for both sides, one for each side, and one for each step.
func newSchedule(data []byte, way string) *schedule {
	next := func() (b byte) {
		if len(data) > 0 {
			b, data = data[0], data[1:]
		}
		return b
	}
	flags := next()
	s := &schedule{waits: flags&5 == 5, stays: flags&2 != 0}
	for _, one := range []*side{&s.client, &s.service} {
		b := next()
		one.end, one.reads, one.small = ends[b&7], reads[b>>3&7], b>>6&1 != 0
	}
	for len(data) > 0 {
		b := next()
		one := &s.client
		if b&1 != 0 {
			one = &s.service
		}
		one.add(step{size: sizes[b>>1&7], pause: time.Duration(b>>4&1) * shortPause})
	}
	s.mend(way)
	return s
}

func (s *side) add(one step) {
	if len(s.steps) < mostSteps && s.total()+one.size <= mostBytes {
		s.steps = append(s.steps, one)
	}
}

// total is how many bytes the side sends if nothing breaks.
func (s *side) total() (n int) {
	for _, one := range s.steps {
		n += one.size
	}
	return n
}

// mend takes out what would last for ever without tcplock as well, or in line, or with proxy.
func (s *schedule) mend(way string) {
	for _, one := range []*side{&s.client, &s.service} {
		if one.reads == never && !one.leaves() || one.reads == late && one.end == answers {
			one.reads = eager
		}
	}
	c, svc := &s.client, &s.service
	patient := func(one *side) bool { return one.end == answers || one.end == stands }
	if patient(c) && patient(svc) { // each would wait for the other's end
		c.end = halfCloses
	}
	if !c.reading() && !svc.reading() { // none would take what the other sends
		c.reads = eager
		if c.end == closes {
			c.end = halfCloses
		}
	}
	if way == "proxy" && (c.leaves() || svc.leaves()) { // it takes nothing from one side when the other has broken the connection
		c.reads, svc.reads = eager, eager
	}
	if s.waits {
		if c.end == answers {
			c.end = stands
		}
		for c.total() > inSocket {
			c.steps = c.steps[1:]
		}
	}
}

// leaves reports whether the side closes whether or not it has read all.
func (s *side) leaves() bool { return s.end == closes || s.end == resets }

// reading reports whether the side reads while it sends.
func (s *side) reading() bool { return s.reads == eager || s.reads == sips }

func (s *schedule) String() string {
	return fmt.Sprintf("waits %t, stays %t\nclient %v\nservice %v", s.waits, s.stays, s.client, s.service)
}

func (s side) String() string {
	return fmt.Sprintf("sends %v, %s, reads %s, small %t", s.steps, s.end, s.reads, s.small)
}
