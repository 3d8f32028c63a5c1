package fds

import "sync/atomic"

// Sockets counts the sockets from one lock to its service, in the budget of the process. The count
// is the number of slots, or the number of open sockets if that is higher: it is after slots were
// lowered, and while there are connections that lost their slot and are still at the service. The
// upper half of the number has the slots and the lower half the open sockets, so that one atomic
// change covers both. The zero value has no slots.
type Sockets struct{ both atomic.Uint64 }

// SetSlots sets the number of slots, for each of which the budget reserves a socket. Only one
// goroutine at a time may call it.
func (s *Sockets) SetSlots(n int) { s.add(uint64(n)<<32 - s.both.Load()>>32<<32) }

// Open counts one more open socket.
func (s *Sockets) Open() { s.add(1) }

// Close counts one open socket less.
func (s *Sockets) Close() { s.add(^uint64(0)) }

func (s *Sockets) add(n uint64) {
	after := s.both.Add(n)
	if more := most(after) - most(after-n); more != 0 {
		Process.services.Add(more)
	}
}

// most is how many sockets are open or reserved.
func most(both uint64) int64 { return int64(max(both>>32, both&(1<<32-1))) }
