package fds

import "sync/atomic"

// Sockets counts the sockets from one lock to its service, in the budget of the process. The count
// is the number of slots, or the number of open sockets if that is higher: it is after slots were
// lowered, and while there are connections that lost their slot and are still at the service. The
// upper half of the number has the slots and the lower half the open sockets, so that one atomic
// change covers both. The zero value has no slots.
type Sockets struct{ both atomic.Uint64 }

// SetSlots sets the number of slots, for each of which the budget reserves a socket.
func (s *Sockets) SetSlots(n int) {
	for {
		before := s.both.Load()
		if s.change(before, uint64(n)<<32|before&(1<<32-1)) {
			return
		}
	}
}

// Open counts one more open socket.
func (s *Sockets) Open() {
	for {
		if before := s.both.Load(); s.change(before, before+1) {
			return
		}
	}
}

// Close counts one open socket less.
func (s *Sockets) Close() {
	for {
		if before := s.both.Load(); s.change(before, before-1) {
			return
		}
	}
}

// change returns false, and changes nothing, if another change came first.
func (s *Sockets) change(before, after uint64) bool {
	if !s.both.CompareAndSwap(before, after) {
		return false
	}
	if more := most(after) - most(before); more != 0 {
		Process.services.Add(more)
	}
	return true
}

// most is how many sockets are open or reserved.
func most(both uint64) int64 { return int64(max(both>>32, both&(1<<32-1))) }
