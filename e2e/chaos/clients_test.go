//go:build chaos && linux

package chaos

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
)

// The kinds of clients.
const (
	plain     = "plain"      // sends its job and reads the answer to its end
	slow      = "slow"       // the same, bit by bit
	halfClose = "half-close" // closes its sending side after the job
	forgets   = "forgets"    // sends its job and closes, as a print client does
	silent    = "silent"     // sends nothing, and closes after a while
	resetting = "resetting"  // sends its job, and resets the connection after a while
	leaving   = "leaving"    // sends a part of its job, and closes after a while
	lingering = "lingering"  // does not close for long after the answer
	vanishing = "vanishing"  // resets the connection while the link is cut
)

// What a client saw at the end.
const (
	sawAnswer  = "the whole answer"
	sawRefusal = "a refusal"
	sawPart    = "part of an answer"
	sawEnd     = "the end"
	sawReset   = "a reset"
	sawNothing = "nothing"       // it did not stay
	sawNoEnd   = "no end"        // until its deadline
	sawNoLock  = "no connection" // it could not connect
)

// client is one client, and what it saw.
type client struct {
	lock  string
	kind  string
	job   job
	stay  time.Duration // how long it stays, if it does not wait for an answer
	addr  netip.AddrPort
	to    string    // the address of the lock
	begin time.Time // before it connects

	connected bool
	at        time.Time // when it was connected
	sent      bool      // it has sent its whole job, with the FIN if the job has one
	finished  time.Time // just before it closed its sending side
	saw       string
	err       error
	end       time.Time // when it saw that, or just before it left
}

// refusal is the answer of the refuse handlers.
const refusal = "refused\n"

// run runs the client to its end. longest is how long the answer or the end may take.
func (c *client) run(far *farSide, longest time.Duration) {
	c.begin = time.Now()
	defer func() {
		if c.end.IsZero() {
			c.end = time.Now()
		}
	}()
	c.saw = sawNothing
	conn, err := dialFrom(far, c.addr, c.to)
	if err != nil {
		c.saw, c.err = sawNoLock, err
		return
	}
	defer func() {
		c.finish()
		conn.Close()
	}()
	c.connected, c.at = true, time.Now()
	_ = conn.SetDeadline(time.Now().Add(longest))
	switch c.kind {
	case silent, leaving:
		if c.kind == leaving {
			_, _ = io.WriteString(conn, c.job.String())
		}
		c.wait(conn, c.stay)
		c.end = time.Now()
		return
	case resetting, vanishing:
		_ = c.send(conn)
		c.wait(conn, c.stay)
		if c.kind == vanishing {
			far.awaitCut()
		}
		c.end = time.Now()
		_ = conn.SetLinger(0)
		return
	}
	// Read at the same time, since the answer may come before the whole job is sent.
	answer := make(chan []byte)
	go func() {
		var got []byte
		got, c.err = io.ReadAll(&sipping{conn, c.kind == slow})
		answer <- got
	}()
	sendError := c.send(conn)
	if c.kind == forgets {
		c.end = time.Now()
		conn.Close()
		c.sent = sendError == nil
		<-answer
		c.err = nil
		return
	}
	got := <-answer
	c.saw = c.look(got)
	c.end = time.Now()
	c.sent = sendError == nil
	if c.kind == lingering {
		time.Sleep(c.stay)
	}
}

// send sends the job.
func (c *client) send(conn *net.TCPConn) error {
	text := []byte(c.job.String() + strings.Repeat("j", c.job.in))
	pieces := 1
	if c.kind == slow {
		pieces = 4
	}
	for size := (len(text) + pieces - 1) / pieces; len(text) > 0; {
		n := min(size, len(text))
		if _, err := conn.Write(text[:n]); err != nil {
			return err
		}
		if text = text[n:]; len(text) > 0 {
			time.Sleep(c.stay / 4)
		}
	}
	if c.job.fin && c.kind != forgets {
		c.finish()
		return conn.CloseWrite()
	}
	return nil
}

// finish records that the client is about to close its sending side.
func (c *client) finish() {
	if c.finished.IsZero() {
		c.finished = time.Now()
	}
}

// wait stays for the time d, or until the other side has closed.
func (c *client) wait(conn *net.TCPConn, d time.Duration) {
	_ = conn.SetReadDeadline(time.Now().Add(d))
	_, _ = io.Copy(io.Discard, conn)
}

// look classifies what the client has got, and how the connection has ended.
func (c *client) look(got []byte) string {
	var timeout net.Error
	switch {
	case errors.As(c.err, &timeout) && timeout.Timeout() || errors.Is(c.err, os.ErrDeadlineExceeded):
		return sawNoEnd
	case string(got) == c.job.answer() && c.err == nil:
		return sawAnswer
	case string(got) == refusal:
		return sawRefusal
	case len(got) > 0 && !bytes.HasPrefix([]byte(c.job.answer()), got):
		return "the answer of another client: " + string(got[:min(len(got), 40)])
	case len(got) > 0:
		return sawPart
	case errors.Is(c.err, syscall.ECONNRESET):
		return sawReset
	}
	return sawEnd
}

// stays reports whether the client waits for its answer.
func (c *client) stays() bool {
	switch c.kind {
	case plain, slow, halfClose, lingering:
		return true
	}
	return false
}

// sipping reads a little at a time, if slow is set.
type sipping struct {
	io.Reader
	slow bool
}

func (s *sipping) Read(p []byte) (int, error) {
	if s.slow {
		time.Sleep(5 * time.Millisecond)
		p = p[:min(len(p), 4096)]
	}
	return s.Reader.Read(p)
}
