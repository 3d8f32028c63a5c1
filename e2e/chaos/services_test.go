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

// What a service does with a job. The client sends its choice with the job. So the script of a client
// describes the whole connection and its expected result.
const (
	answers   = "answers"    // answers at once, or after a delay
	trickles  = "trickles"   // answers bit by bit
	halfDone  = "half-done"  // answers and closes its sending side before it reads the job
	hangsUp   = "hangs-up"   // closes without an answer
	resets    = "resets"     // resets the connection
	neverEnds = "never-ends" // neither answers nor closes for long, whatever the client does
)

// job is the first line that a client sends.
type job struct {
	number int
	deed   string
	delay  time.Duration
	in     int  // how many bytes follow
	fin    bool // whether the client closes its sending side after them
	out    int  // the length of the answer in bytes, about
}

func (j job) String() string {
	return fmt.Sprintf("job %d %s %d %d %t %d\n", j.number, j.deed, j.delay, j.in, j.fin, j.out)
}

func parseJob(line string) (j job, err error) {
	_, err = fmt.Sscanf(line, "job %d %s %d %d %t %d\n", &j.number, &j.deed, &j.delay, &j.in, &j.fin, &j.out)
	return j, err
}

// answer is the answer to the job.
func (j job) answer() string {
	return fmt.Sprintf("answer %d %s\n", j.number, strings.Repeat("x", j.out))
}

// service is the service of a lock, or one of its workers. It knows which connections are open.
type service struct {
	addr string
	lock string
	note func(*visit)

	mu       sync.Mutex
	quit     chan struct{} // closed: all waits end
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

// open starts to listen. After close, connections are refused until open is called again.
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

// release ends all waits, so that connections that do not end by themselves end now.
func (s *service) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.quit)
	s.quit = make(chan struct{})
}

// enter serves a connection. It counts once the proxy has sent its PROXY header, which comes at once.
// A connection that sends nothing does not count: it is a probe of a worker.
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

// leave ends a connection. It lowers the count before it closes, because after that the lock may send
// the next connection.
func (s *service) leave(g *guest) {
	s.mu.Lock()
	delete(s.here, g)
	s.mu.Unlock()
	g.Close()
}

// others returns the open connections: the service has not closed them, and neither has the proxy in
// both directions. The mutex must be held.
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

// ended has the states of a TCP connection that is closed in both directions, or will be.
var ended = map[uint8]bool{6: true, 7: true, 9: true, 11: true} // TIME_WAIT, CLOSE, LAST_ACK, CLOSING

// gone reports whether the proxy has closed its socket. If the service has not closed its own sending
// side, the system cannot tell whether the proxy has closed both sides or one. Then gone is false.
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
		return // the client has sent no whole line
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

// wait waits for d, or until release is called.
func (s *service) wait(d time.Duration) {
	s.mu.Lock()
	quit := s.quit
	s.mu.Unlock()
	select {
	case <-time.After(d):
	case <-quit:
	}
}
