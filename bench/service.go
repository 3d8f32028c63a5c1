package main

import (
	"net"
	"sync"
)

// What the service and its clients say to each other, where the length does not matter.
var (
	request = make([]byte, 64)
	answer  = make([]byte, 256)
)

// service is what the targets stand in front of.
type service struct {
	net.Listener
	serving sync.WaitGroup
}

// newService serves each connection by a call of serve, which is to close it.
func newService(serve func(net.Conn)) (*service, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &service{Listener: ln}
	s.serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.serving.Go(func() { serve(c) })
		}
	})
	return s, nil
}

func (s *service) addr() string { return s.Listener.Addr().String() }

func (s *service) stop() {
	s.Close()
	s.serving.Wait()
}

// answerOnce reads a request, answers it and closes.
func answerOnce(c net.Conn) {
	defer c.Close()
	var buf [64]byte
	if n, _ := c.Read(buf[:]); n > 0 {
		_, _ = c.Write(answer)
	}
}
