package main

import (
	"net"
	"slices"
	"sync"
	"time"
)

// What client and service send where the length does not matter.
var (
	request = make([]byte, 64)
	answer  = make([]byte, 256)
)

// service is the service behind the targets.
type service struct {
	*net.TCPListener
	serving sync.WaitGroup
}

// newService starts a service that calls serve for each connection. serve must close it.
func newService(serve func(*net.TCPConn)) (*service, error) {
	s, err := listen()
	if err != nil {
		return nil, err
	}
	s.serving.Go(func() {
		for {
			c, err := s.AcceptTCP()
			if err != nil {
				return
			}
			s.serving.Go(func() { serve(c) })
		}
	})
	return s, nil
}

func listen() (*service, error) {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	return &service{TCPListener: ln}, err
}

func (s *service) addr() string { return s.Addr().String() }

func (s *service) stop() {
	s.Close()
	s.serving.Wait()
}

// answerOnce reads a request, answers it and closes.
func answerOnce(c *net.TCPConn) {
	defer c.Close()
	var buf [64]byte
	if n, _ := c.Read(buf[:]); n > 0 {
		_, _ = c.Write(answer)
	}
}

// gated is a service that serves one connection at a time, and only while the gate is open. It
// records the gaps without a connection: each is from a close to the next accept.
type gated struct {
	*service
	gate   sync.Mutex    // locked while the gate is shut; guards the fields below
	pause  time.Duration // how long a connection takes
	closed time.Time     // the last close; zero: there was none since the gate opened
	gaps   []time.Duration
}

// newGated starts a gated service whose gate is open.
func newGated() (*gated, error) {
	s, err := listen()
	if err != nil {
		return nil, err
	}
	g := &gated{service: s}
	g.serving.Go(func() {
		for {
			c, err := s.AcceptTCP()
			if err != nil {
				return
			}
			g.serve(c, time.Now())
		}
	})
	return g, nil
}

func (g *gated) serve(c *net.TCPConn, accepted time.Time) {
	var buf [64]byte
	n, _ := c.Read(buf[:])
	g.gate.Lock()
	defer g.gate.Unlock()
	if !g.closed.IsZero() {
		g.gaps = append(g.gaps, accepted.Sub(g.closed))
	}
	if n > 0 {
		if g.pause > 0 {
			time.Sleep(g.pause)
		}
		_, _ = c.Write(answer)
	}
	g.closed = time.Now()
	c.Close()
}

// open opens the gate, which must be shut.
func (g *gated) open() {
	g.gaps, g.closed = g.gaps[:0], time.Time{}
	g.gate.Unlock()
}

// shut shuts the gate, which must be open. It returns the gaps since the gate was opened, in
// microseconds, sorted.
func (g *gated) shut() (gaps []float64) {
	g.gate.Lock()
	for _, gap := range g.gaps {
		gaps = append(gaps, float64(gap)/float64(time.Microsecond))
	}
	slices.Sort(gaps)
	return gaps
}

// quantile returns a quantile of sorted values, of which there must be at least one.
func quantile(sorted []float64, q float64) float64 {
	return sorted[int(q*float64(len(sorted)-1))]
}
