//go:build chaos && linux

package chaos

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What a service does with a job. The client says which: so a client's script says all
// of one connection, and what is to be expected of it.
const (
	answers   = "answers"   // at once, or after a delay
	trickles  = "trickles"  // answers bit by bit
	halfDone  = "half-done" // answers and closes its sending side before it reads the job
	hangsUp   = "hangs-up"  // closes without an answer
	resets    = "resets"
	neverEnds = "never-ends" // neither answers nor closes, whatever the client does, for long
)

// job is what a client asks for: the line that it sends first.
type job struct {
	number int
	deed   string
	delay  time.Duration
	in     int  // bytes that follow
	fin    bool // and then the client closes its sending side
	out    int  // bytes of the answer
}

func (j job) String() string {
	return fmt.Sprintf("job %d %s %d %d %t %d\n", j.number, j.deed, j.delay, j.in, j.fin, j.out)
}

func parseJob(line string) (j job, err error) {
	_, err = fmt.Sscanf(line, "job %d %s %d %d %t %d\n", &j.number, &j.deed, &j.delay, &j.in, &j.fin, &j.out)
	return j, err
}

// answer is what the client gets for it.
func (j job) answer() string {
	return fmt.Sprintf("answer %d %s\n", j.number, strings.Repeat("x", j.out))
}

// service is behind a lock, or is one of its workers. It counts who is there.
type service struct {
	addr string
	lock string
	note func(*visit)

	mu       sync.Mutex
	quit     chan struct{} // closed: nobody hangs on any more
	listener net.Listener
	here     map[*guest]bool
}

// guest is a connection to a service.
type guest struct {
	*net.TCPConn
	from netip.AddrPort
}

func newService(addr, lock string, note func(*visit)) (*service, error) {
	s := &service{addr: addr, lock: lock, note: note, quit: make(chan struct{}), here: make(map[*guest]bool)}
	return s, s.open()
}

// open listens; close refuses who comes, until it is opened again.
func (s *service) open() error {
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("service: %w", err)
	}
	s.mu.Lock()
	s.listener = ln
	s.mu.Unlock()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.enter(&guest{TCPConn: conn.(*net.TCPConn)})
		}
	}()
	return nil
}

func (s *service) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener.Close()
}

// release ends what hangs on.
func (s *service) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.quit)
	s.quit = make(chan struct{})
}

// enter lets a guest in and serves it. Who it is, the proxy says at once: only then it
// counts, since a worker is also looked at by connections that say nothing.
func (s *service) enter(g *guest) {
	r := bufio.NewReader(g)
	_ = g.SetReadDeadline(time.Now().Add(patience))
	header, err := r.ReadString('\n')
	words := strings.Fields(header)
	if err != nil || len(words) != 6 || words[0] != "PROXY" {
		g.Close()
		return
	}
	_ = g.SetReadDeadline(time.Time{})
	g.from, _ = netip.ParseAddrPort(words[2] + ":" + words[4])
	s.mu.Lock()
	v := &visit{Client: g.from, At: time.Now(), Others: s.others(), Worker: s.addr, PID: os.Getpid()}
	s.here[g] = true
	s.note(v)
	s.mu.Unlock()
	go func() {
		ended := *v
		s.serve(g, r, &ended)
		ended.Left = time.Now()
		s.leave(g)
		s.note(&ended)
	}()
}

// leave ends a connection. It is counted out before it is closed: only then can the lock
// know, and send the next one.
func (s *service) leave(g *guest) {
	s.mu.Lock()
	delete(s.here, g)
	s.mu.Unlock()
	g.Close()
}

// others lists those who are connected: whose connection has not been closed by the
// service, and neither by the proxy in both directions. With the mutex held.
func (s *service) others() (others []netip.AddrPort) {
	for g := range s.here {
		if !g.gone() {
			others = append(others, g.from)
		}
	}
	return others
}

func (s *service) count() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.others()
}

// The states of a TCP connection that has ended in both directions, or is about to.
var ended = map[uint8]bool{6: true, 7: true, 9: true, 11: true} // TIME_WAIT, CLOSE, LAST_ACK, CLOSING

// gone reports whether the proxy's socket is closed, if that can be told: of one that has
// closed its sending side while the service has not, it cannot.
func (g *guest) gone() bool {
	raw, err := g.SyscallConn()
	if err != nil {
		return true
	}
	var info *unix.TCPInfo
	if raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }) != nil || err != nil {
		return true
	}
	return ended[info.State]
}

func (s *service) serve(g *guest, r *bufio.Reader, v *visit) {
	line, err := r.ReadString('\n')
	if err != nil {
		return // a client that has said nothing, or not enough
	}
	j, err := parseJob(line)
	if err != nil {
		return
	}
	switch j.deed {
	case neverEnds:
		s.wait(j.delay)
		return
	case halfDone:
		_, err := io.WriteString(g, j.answer())
		v.Answered = err == nil && g.CloseWrite() == nil
	}
	read, err := io.CopyN(io.Discard, r, int64(j.in))
	if err == nil && j.fin {
		_, err = r.ReadByte()
	}
	v.Whole = read == int64(j.in) && (j.fin && err == io.EOF || !j.fin && err == nil)
	s.wait(j.delay)
	switch j.deed {
	case answers:
		_, err := io.WriteString(g, j.answer())
		v.Answered = err == nil
	case trickles:
		v.Answered = true
		for text := j.answer(); len(text) > 0 && v.Answered; {
			n := min(len(text), 1+j.out/5)
			_, err := io.WriteString(g, text[:n])
			v.Answered = err == nil
			text = text[n:]
			s.wait(j.delay / 5)
		}
	case resets:
		_ = g.SetLinger(0)
	}
}

// wait waits, for less if nobody is to hang on any more.
func (s *service) wait(d time.Duration) {
	s.mu.Lock()
	quit := s.quit
	s.mu.Unlock()
	select {
	case <-time.After(d):
	case <-quit:
	}
}
