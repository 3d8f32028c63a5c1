package tcplock

import "time"

// A restart that an operator has asked for waits until the slot's holder is gone. A service
// that hangs does not let go of its client, though, and with a client that has closed its
// side nothing would ever end that connection. So such a holder is cut.

const (
	// restartLull is how long no byte has moved, in either direction, when a service is
	// taken for one that hangs.
	restartLull = 5 * time.Second

	// restartLook is the time between two looks at the holder.
	restartLook = 250 * time.Millisecond
)

// restart has the slot's process restarted, or with slot 0 all of them, each between two
// clients of its slot. It returns how many.
func (l *lock) restart(slot int) (n int) {
	for _, w := range l.pool() {
		if w != nil && (slot == 0 || slot == w.slot) && w.running() != nil {
			w.restart(restartRequest)
			w.hasten()
			n++
		}
	}
	return n
}

// hasten sees to it that a restart that is due takes effect. One goroutine does that for a
// worker, however often it is asked.
func (w *worker) hasten() {
	if !w.restartDue() || !w.hastened.CompareAndSwap(false, true) {
		return
	}
	go func() {
		var held lull
		for w.restartDue() && sleep(w.lock.ctx, restartLook) {
			held.look(w)
		}
		w.hastened.Store(false)
		if w.lock.ctx.Err() == nil {
			w.hasten() // if it was asked for again just then
		}
	}()
}

func (w *worker) restartDue() bool {
	p := w.running()
	return p != nil && p.snapshot().Due != ""
}

// lull is the time in which the holder of a slot, whose client has closed its side, has
// sent and got nothing.
type lull struct {
	holder *conn
	moved  int64
	since  time.Time
}

// look looks at the holder of w's slot, and cuts it when its lull has been too long.
func (l *lull) look(w *worker) {
	p := w.lock.queue.Holder(w.slot)
	if p == nil {
		return
	}
	c := p.owner.(*conn)
	if c.state() != stateConnected || c.kicked.Load() || !c.inputOver() {
		l.holder = nil
		return
	}
	now := time.Now()
	if moved := c.moved(); c != l.holder || moved != l.moved {
		l.holder, l.moved, l.since = c, moved, now
		return
	}
	if now.Sub(l.since) >= restartLull {
		c.throwOut(w.slot, "restart")
	}
}

// inputOver reports whether the client has closed its side, or has gone, as far as can be
// seen. It changes nothing, so it may be asked while handlers use the connection.
func (c *conn) inputOver() bool {
	if c.inputEnded.Load() || c.raw == nil {
		return c.inputEnded.Load()
	}
	var seen peer
	err := c.raw.Control(func(fd uintptr) { seen = look(fd) })
	return err != nil || seen != peerOpen
}

// moved counts the bytes that have moved from and to the client. A handler may be held up
// for long while it writes to a client that takes little at a time: the system knows more
// of that than the handler does.
func (c *conn) moved() int64 {
	n := c.in.Load() + c.out.Load()
	if c.raw != nil {
		_ = c.raw.Control(func(fd uintptr) { n += taken(fd) })
	}
	return n
}

// throwOut cuts a holder. Its slot is handed on when the service has let go of it, or a
// moment later in any case.
func (c *conn) throwOut(slot int, reason string) {
	c.kicked.Store(true)
	c.cut()
	time.AfterFunc(letGoGrace, c.handOn)
	c.lock.happened(Event{Event: eventKicked, Slot: slot, Connection: c.id, Client: c.client, Reason: reason})
}
