package relay_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// The model says what must come of a schedule. Whatever happens, each side gets a part of what the other
// has sent, from the beginning and in order, and then the end.

// door is one lock in front of a service of its own.
type door struct {
	name    string
	way     string // to or proxy
	before  string // handlers before the lock
	linger  time.Duration
	drop    bool // half_closed drop
	address string
}

// long is a linger that never ends here.
const long = time.Minute

// breaks reports whether a side resets the connection. To close without having read all is a reset.
func breaks(one, other *side) bool {
	return one.end == resets || one.end == closes && other.total() > 0
}

// served reports whether the connection comes to the service. A client that has gone before its turn does not.
func (p *performance) served() bool {
	c := &p.client
	switch {
	case !p.waits || c.end == stands:
		return true
	case c.end == resets:
		return false
	}
	return c.total() > 0 && !p.drop
}

// jobWhole reports whether the service must get all that the client sends, and then its FIN.
func (p *performance) jobWhole() bool {
	c, s := &p.client, &p.service
	if !p.served() || breaks(c, s) || s.leaves() {
		return false
	}
	return s.end != halfCloses || p.linger == long // else the lock need not wait for the rest of the job
}

// replyWhole reports whether the client must get all that the service sends, and then its FIN.
func (p *performance) replyWhole() bool {
	c, s := &p.client, &p.service
	if !p.served() || c.leaves() {
		return false
	}
	// The lock's own way reads on from a service that has broken the connection.
	kept := p.way == "to" && s.total() <= inSocket && !s.small
	return kept || !breaks(s, c)
}

// judge compares what has come of the schedule with the model. It returns what is wrong.
func (p *performance) judge() error {
	c, s := &p.client, &p.service
	if p.job.sendError != nil && (p.way == "to" || !breaks(s, c)) {
		return fmt.Errorf("the client could not send: %w", p.job.sendError) // what the service does not take is discarded
	}
	if p.reply.sendError != nil && !c.leaves() {
		return fmt.Errorf("the service could not send: %w", p.reply.sendError)
	}
	if err := p.job.judge(p.jobWhole(), p.served() && !s.leaves()); err != nil {
		return fmt.Errorf("to the service: %w", err)
	}
	if err := p.reply.judge(p.replyWhole(), !c.leaves()); err != nil {
		return fmt.Errorf("to the client: %w", err)
	}
	return nil
}

// judge checks that what has come is a part of what was sent, that all has come if it must, and that the end
// has come if the other side stayed for it.
func (s *stream) judge(whole, ends bool) error {
	switch {
	case s.wrong:
		return fmt.Errorf("after %d bytes came one that was not sent there", s.got)
	case s.got > s.tried:
		return fmt.Errorf("%d bytes came, %d were sent", s.got, s.tried)
	case whole && (s.got < s.tried || s.end != io.EOF):
		return fmt.Errorf("found %d bytes and then %v, expected %d bytes and EOF", s.got, s.end, s.tried)
	case ends && (s.end == nil || errors.Is(s.end, os.ErrDeadlineExceeded) || errors.Is(s.end, net.ErrClosed)):
		return fmt.Errorf("found %d bytes and then %v, expected the end", s.got, s.end)
	}
	return nil
}

func (s *stream) String() string {
	return fmt.Sprintf("%d bytes sent (%v), %d came (%v)", s.tried, s.sendError, s.got, s.end)
}
