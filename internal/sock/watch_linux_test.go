package sock

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watched counts what it is told.
type watched chan struct{}

func newWatched() watched { return make(watched, 100) }

func (w watched) SocketReady() { w <- struct{}{} }

func (w watched) isTold(t *testing.T, what string) {
	t.Helper()
	select {
	case <-w:
	case <-time.After(patience):
		t.Fatalf("found the observer not told, expected it: %s", what)
	}
}

// isQuiet checks that the observer was not told, of anything that has happened before.
func (w watched) isQuiet(t *testing.T, what string) {
	t.Helper()
	settle(t)
	if n := len(w); n > 0 {
		t.Fatalf("found the observer told %d times, expected it not to be: %s", n, what)
	}
}

// settle waits until all events that have happened by now were told: they are told in order.
func settle(t *testing.T) {
	t.Helper()
	for range 2 { // the first event may be in a batch that was taken before
		c, peer := pair(t)
		w := newWatched()
		if err := c.Watch(w, Input); err != nil {
			t.Fatal(err)
		}
		_, _ = peer.Write([]byte("x"))
		w.isTold(t, "the event after all")
	}
}

func watch(t *testing.T, c *Conn, w Observer, events Events) {
	t.Helper()
	if err := c.Watch(w, events); err != nil {
		t.Fatal(err)
	}
}

// What a peer can do, and which events it is.
var (
	sends   = func(peer *net.TCPConn) { _, _ = peer.Write([]byte("hello")) }
	ends    = func(peer *net.TCPConn) { _ = peer.CloseWrite() }
	resets  = func(peer *net.TCPConn) { _ = peer.SetLinger(0); peer.Close() }
	actions = []struct {
		name string
		act  func(*net.TCPConn)
		of   map[Events]bool // the events that tell of it
	}{
		{"sends", sends, map[Events]bool{Input: true}},
		{"ends", ends, map[Events]bool{Input: true, EndOf: true}},
		{"resets", resets, map[Events]bool{Input: true, EndOf: true, Hangup: true}},
	}
	names = map[Events]string{Input: "Input", EndOf: "EndOf", Hangup: "Hangup"}
)

// An observer is told of the events that it watches for, whether they come later or have come already, once.
func TestWatch(t *testing.T) {
	for _, a := range actions {
		for events, name := range names {
			for _, before := range []bool{false, true} {
				t.Run(name+" "+a.name, func(t *testing.T) {
					c, peer := pair(t)
					w := newWatched()
					if before {
						a.act(peer)
						if a.of[Input] {
							readable(t, c)
						}
						watch(t, c, w, events)
					} else {
						watch(t, c, w, events)
						w.isQuiet(t, "nothing has happened")
						a.act(peer)
					}
					if !a.of[events] {
						w.isQuiet(t, "it is no such event")
						return
					}
					w.isTold(t, a.name)
					resets(peer)
					w.isQuiet(t, "it was told once")
					watch(t, c, w, events)
					w.isTold(t, "it is told again when it watches again")
				})
			}
		}
	}
}

// A later call takes the place of an earlier one.
func TestWatchAgain(t *testing.T) {
	c, peer := pair(t)
	first, second := newWatched(), newWatched()
	watch(t, c, first, Input)
	watch(t, c, second, EndOf)
	sends(peer)
	second.isQuiet(t, "it watches for the end")
	ends(peer)
	second.isTold(t, "the end")
	first.isQuiet(t, "the second has taken its place")
}

// No observer is told after Close or CloseWrite. CloseWrite ends no later Watch.
func TestWatchEnds(t *testing.T) {
	c, peer := pair(t)
	w := newWatched()
	watch(t, c, w, Input)
	_ = c.CloseWrite()
	sends(peer)
	w.isQuiet(t, "CloseWrite")
	watch(t, c, w, Input)
	w.isTold(t, "what was sent")
	watch(t, c, w, EndOf)
	c.Close()
	peer.Close()
	w.isQuiet(t, "Close")
}

// A dup keeps the socket open, and so it stays in the watcher's set, when the connection is closed.
func TestWatchEndsAlthoughSocketIsOpen(t *testing.T) {
	c, peer := pair(t)
	w := newWatched()
	watch(t, c, w, Input)
	fd, err := 0, error(nil)
	_ = c.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	number := c.fd
	c.Close()
	sends(peer)
	w.isQuiet(t, "the connection is closed")
	other, otherPeer := pairAt(t, int(number))
	watch(t, other, w, Input)
	w.isQuiet(t, "another connection has the number")
	sends(otherPeer)
	w.isTold(t, "the other connection has input")
}

// pairAt returns a connection with this number as its descriptor, and its peer.
func pairAt(t *testing.T, number int) (*Conn, *net.TCPConn) {
	t.Helper()
	c, peer := pair(t)
	if int(c.fd) == number {
		return c, peer
	}
	if err := unix.Dup3(int(c.fd), number, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	at := New(number)
	c.Close()
	t.Cleanup(func() { at.Close() })
	return at, peer
}

// does is an observer that calls a function.
type does func()

func (d does) SocketReady() { d() }

// Two events are taken in one batch. When the first is told, the second's connection is closed, and another takes
// its descriptor's number and is watched. The second event is told to no observer: it was another connection's.
func TestNumberIsReusedWithinBatch(t *testing.T) {
	busy, busyPeer := pair(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	watch(t, busy, does(func() {
		close(begun)
		<-goOn
	}), Input)
	sends(busyPeer)
	<-begun // from here on events pile up

	first, firstPeer := pair(t)
	second, secondPeer := pair(t)
	old, fresh := newWatched(), newWatched()
	number := int(second.fd)
	swapped := make(chan struct{})
	third, _ := pair(t)
	watch(t, first, does(func() {
		defer close(swapped)
		second.Close()
		if err := unix.Dup3(int(third.fd), number, unix.O_CLOEXEC); err != nil {
			t.Error(err)
			return
		}
		replacement := New(number)
		t.Cleanup(func() { replacement.Close() })
		if err := replacement.Watch(fresh, Input); err != nil {
			t.Error(err)
		}
	}), Input)
	watch(t, second, old, Input)
	sends(firstPeer)
	sends(secondPeer)
	readable(t, second)
	close(goOn)
	<-swapped
	fresh.isQuiet(t, "the event was that of the connection before")
	old.isQuiet(t, "its connection is closed")
}

// A call that waits takes the connection from the watcher. The observer is told, or it would hear of nothing that
// comes later. From then on Watch fails.
func TestObserverIsToldOfWait(t *testing.T) {
	for name, wait := range map[string]func(c *Conn){
		"Read":             func(c *Conn) { _, _ = c.Read(make([]byte, 1)) },
		"Write":            func(c *Conn) { _, _ = c.Write(make([]byte, 20<<20)) },
		"SetWriteDeadline": func(c *Conn) { _ = c.SetWriteDeadline(time.Now()) },
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := pair(t)
			w := newWatched()
			watch(t, c, w, Input)
			go wait(c)
			w.isTold(t, "the call has to wait")
			if c.Watch(w, Input) == nil {
				t.Error("found Watch to succeed, expected an error")
			}
			sends(peer)
			w.isQuiet(t, "it has been told")
		})
	}
}

// A connection that the system cannot watch gives an error, each time, and nothing is left of it.
func TestWatchFails(t *testing.T) {
	file, err := unix.MemfdCreate("regular", unix.MFD_CLOEXEC) // epoll takes no regular files
	if err != nil {
		t.Fatal(err)
	}
	c := New(file)
	defer c.Close()
	for range 2 {
		want(t, "Watch", c.Watch(newWatched(), Input), unix.EPERM)
	}
	if c.token != 0 || theWatcher().find(int32(file)) != nil {
		t.Error("found the connection in the table of the watcher, expected it out")
	}
}

// A thousand connections, or as many as there are descriptors for, are watched by one goroutine, and each event of a burst is told once.
func TestManyAreWatched(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n := min(1000, int(min(limit.Cur, 1<<20))/4) // each needs two descriptors
	all := make(watched, 2*n)
	var peers []*net.TCPConn
	for range n {
		c, peer := pair(t)
		peers = append(peers, peer)
		watch(t, c, all, EndOf)
	}
	for _, peer := range peers {
		ends(peer)
	}
	for range n {
		all.isTold(t, "an end")
	}
	all.isQuiet(t, "each was told once")
}
