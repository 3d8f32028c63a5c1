package relay_test

import (
	"bytes"
	"net"
	"time"
)

// streams has what the sides send. Each side of each connection begins at another place, so that bytes of one
// are not taken for those of another.
var streams = func() (all []byte) {
	x := uint32(1)
	for range 3 * mostBytes {
		x = x*1664525 + 1013904223
		all = append(all, byte(x>>24))
	}
	return all
}()

// stream is what one side sends, and what has come of it.
type stream struct {
	all       []byte // from here on in streams
	tried     int    // how many bytes the side has tried to send
	sendError error
	got       int   // how many bytes have come, until one was wrong
	wrong     bool  // the next one was
	end       error // with which reading has ended: io.EOF is a FIN
}

func newStream(number int) *stream { return &stream{all: streams[number*7919%mostBytes:]} }

// actor does what a side of the schedule does.
type actor struct {
	*side
	conn             *net.TCPConn
	out, in          *stream
	mayClose         <-chan struct{} // nil: at once
	said, heard, end chan struct{}   // closed when it has sent all, has read all, has closed
}

func newActor(s *side, conn *net.TCPConn, out, in *stream, mayClose <-chan struct{}) *actor {
	_ = conn.SetDeadline(time.Now().Add(patience))
	a := &actor{s, conn, out, in, mayClose, make(chan struct{}), make(chan struct{}), make(chan struct{})}
	go a.hear()
	go a.act()
	return a
}

func (a *actor) act() {
	defer close(a.end)
	defer a.conn.Close()
	if a.side.end == answers {
		<-a.heard
	}
	a.say()
	switch a.side.end {
	case halfCloses, answers:
		_ = a.conn.CloseWrite()
	case resets:
		_ = a.conn.SetLinger(0)
	}
	if a.leaves() {
		a.conn.Close()
	}
	close(a.said)
	<-a.heard
	if a.mayClose != nil {
		<-a.mayClose
	}
}

func (a *actor) say() {
	for _, one := range a.steps {
		n := a.out.tried
		a.out.tried += one.size
		if _, err := a.conn.Write(a.out.all[n:a.out.tried]); err != nil {
			a.out.sendError = err
			return
		}
		if one.pause > 0 {
			time.Sleep(one.pause)
		}
	}
}

func (a *actor) hear() {
	defer close(a.heard)
	switch a.reads {
	case never:
		return
	case late:
		<-a.said
	}
	buf := make([]byte, 64<<10)
	for reads := 0; a.in.end == nil && !a.in.wrong; reads++ {
		size := len(buf)
		if a.reads == sips && reads < sipPauses {
			size = 500
			time.Sleep(shortPause)
		}
		var n int
		n, a.in.end = a.conn.Read(buf[:size])
		a.in.wrong = !bytes.Equal(buf[:n], a.in.all[a.in.got:a.in.got+n])
		if !a.in.wrong {
			a.in.got += n
		}
	}
}
