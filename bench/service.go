package main

import (
	"net"
	"slices"
	"sync"
	"time"
)

// What the service and its clients say to each other, where the length does not matter.
var (
	request = make([]byte, 64)
	answer  = make([]byte, 256)
)

// service is what the targets stand in front of.
type service struct {
	*net.TCPListener
	serving sync.WaitGroup
}

// newService serves each connection by a call of serve, which is to close it.
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

// gated is a service that serves one connection after the other, and only while the
// gate is open. It notes how long it was left without one: from its close to its next
// accept.
type gated struct {
	*service
	gate   sync.Mutex    // held by whoever keeps it shut; guards what is below
	pause  time.Duration // how long a connection takes
	closed time.Time     // the last one; zero: there was none since the gate opened
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

// open opens the gate that is shut.
func (g *gated) open() {
	g.gaps, g.closed = g.gaps[:0], time.Time{}
	g.gate.Unlock()
}

// shut shuts the gate that is open, and returns the gaps since then, in microseconds and
// by length.
func (g *gated) shut() (gaps []float64) {
	g.gate.Lock()
	for _, gap := range g.gaps {
		gaps = append(gaps, float64(gap)/float64(time.Microsecond))
	}
	slices.Sort(gaps)
	return gaps
}

// quantile of sorted values.
func quantile(sorted []float64, q float64) float64 {
	return sorted[int(q*float64(len(sorted)-1))]
}
