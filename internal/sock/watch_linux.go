package sock

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Observer is told that something has happened at a connection's socket. SocketReady is called by the goroutine
// that watches all of them, so it must not wait. The call is a hint: the socket may be as it was.
type Observer interface{ SocketReady() }

// Events are those that Watch waits for. The end of both directions, and an error, are always among them.
type Events uint32

const (
	Hangup Events = 0                              // both directions have ended
	EndOf  Events = unix.EPOLLRDHUP                // the peer has closed its sending side
	Input  Events = unix.EPOLLIN | unix.EPOLLRDHUP // there is something to read
)

// Watch has o told, once, of the next of these events, or at once if it has come already. A later call takes
// the place of an earlier one. When a call on the connection has to wait, o is told as well. After that, Watch
// returns an error. So it does if the system cannot watch one more.
func (c *Conn) Watch(o Observer, events Events) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.fd < 0:
		return net.ErrClosed
	case c.file != nil || !Ready():
		return errors.ErrUnsupported
	}
	c.observer = o
	op, added := unix.EPOLL_CTL_MOD, c.token == 0
	if added {
		op = unix.EPOLL_CTL_ADD
		c.token = theWatcher().add(c)
	}
	event := unix.EpollEvent{Events: uint32(events) | unix.EPOLLONESHOT, Fd: c.fd, Pad: int32(c.token)}
	err := unix.EpollCtl(theWatcher().epoll, op, int(c.fd), &event)
	if err != nil && added {
		theWatcher().remove(c)
		c.token = 0
	}
	return err
}

// unwatch ends that. The mutex is held.
func (c *Conn) unwatch() {
	if c.token != 0 {
		_ = unix.EpollCtl(theWatcher().epoll, unix.EPOLL_CTL_DEL, int(c.fd), nil)
		theWatcher().remove(c)
		c.token = 0
	}
}

// watcher watches the connections of the process, in one goroutine. Its epoll is itself in Go's poller, so the
// goroutine blocks no thread.
type watcher struct {
	epoll int
	file  *os.File // owns epoll

	mu     sync.Mutex
	all    []*Conn // by descriptor; nil: not watched
	tokens uint32  // the last one
}

var theWatcher = sync.OnceValue(newWatcher)

// Ready starts to watch, and reports whether that is possible. Call it before descriptors run out.
func Ready() bool { return theWatcher() != nil }

func newWatcher() *watcher {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil
	}
	_ = unix.SetNonblock(epoll, true)
	w := &watcher{epoll: epoll, file: os.NewFile(uintptr(epoll), "epoll")}
	if w.file.SetReadDeadline(time.Time{}) != nil { // this epoll cannot be in Go's poller
		w.file.Close()
		return nil
	}
	go w.run()
	return w
}

// add enters a connection in the table, and returns a token for it. A descriptor's number may have been
// another connection's a moment ago, and events for that one may be under way: they have its token.
func (w *watcher) add(c *Conn) (token uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for int(c.fd) >= len(w.all) {
		w.all = append(w.all, nil)
	}
	w.all[c.fd] = c
	if w.tokens++; w.tokens == 0 {
		w.tokens++
	}
	return w.tokens
}

func (w *watcher) remove(c *Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[c.fd] = nil
}

func (w *watcher) find(fd int32) *Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all[fd]
}

func (w *watcher) run() {
	raw, _ := w.file.SyscallConn()
	var events [128]unix.EpollEvent
	for {
		n := 0
		_ = raw.Read(func(uintptr) bool {
			n, _ = unix.EpollWait(w.epoll, events[:], 0)
			return n > 0
		})
		for _, e := range events[:max(n, 0)] {
			if c := w.find(e.Fd); c != nil {
				c.tell(uint32(e.Pad))
			}
		}
	}
}

func (c *Conn) tell(token uint32) {
	c.mu.Lock()
	o := c.observer
	current := c.token == token
	c.mu.Unlock()
	if current {
		o.SocketReady()
	}
}
