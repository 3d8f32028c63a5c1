package fds

import "sync/atomic"

// Sockets is one lock's part of services: as many as it has slots, or as many connections
// as are really at its service if those are more. They are more when slots were lowered
// under their holders, and when connections are left over. Slots are the upper half of the
// number, connections the lower one, so that both change together with what follows from
// them, and without a mutex.
type Sockets struct{ both atomic.Uint64 }

func (s *Sockets) SetSlots(n int) {
	for {
		before := s.both.Load()
		if s.change(before, uint64(n)<<32|before&(1<<32-1)) {
			return
		}
	}
}

func (s *Sockets) Open() {
	for {
		if before := s.both.Load(); s.change(before, before+1) {
			return
		}
	}
}

func (s *Sockets) Close() {
	for {
		if before := s.both.Load(); s.change(before, before-1) {
			return
		}
	}
}

// change returns false if another change was faster.
func (s *Sockets) change(before, after uint64) bool {
	if !s.both.CompareAndSwap(before, after) {
		return false
	}
	if more := most(after) - most(before); more != 0 {
		Process.services.Add(more)
	}
	return true
}

// most is how many sockets there are or may be.
func most(both uint64) int64 { return int64(max(both>>32, both&(1<<32-1))) }
