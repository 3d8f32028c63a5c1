//go:build chaos && linux

package chaos

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// The workers of a lock and the commands of its hooks run this program too, as children of Caddy.
// They report to the test through a unix socket.

const recorderEnv = "TCPLOCK_CHAOS_RECORDER" // the path of the socket

func TestMain(m *testing.M) {
	if recorder := os.Getenv(recorderEnv); recorder != "" && len(os.Args) == 3 {
		if err := child(recorder, os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// report is what a child sends. It has one of Visit, Trouble and Hook.
type report struct {
	Lock    string
	Visit   *visit `json:",omitempty"`
	Trouble string `json:",omitempty"`
	Hook    string `json:",omitempty"`
	PID     int    `json:",omitempty"` // of the command of the hook
}

func child(recorder, role, what string) error {
	conn, err := net.Dial("unix", recorder)
	if err != nil {
		return err
	}
	defer conn.Close()
	lock := os.Getenv("TCPLOCK_NAME")
	var mu sync.Mutex
	tell := func(r report) {
		r.Lock = lock
		mu.Lock()
		defer mu.Unlock()
		_ = json.NewEncoder(conn).Encode(r)
	}
	switch role {
	case "hook":
		tell(report{Hook: what, PID: os.Getpid()})
		verdict, _ := bufio.NewReader(conn).ReadString('\n')
		if verdict != "ok\n" {
			return fmt.Errorf("the verdict is %q", verdict)
		}
		return nil
	case "worker":
		// An address must never have more than one process.
		file, err := os.OpenFile(filepath.Join(filepath.Dir(recorder), what+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			tell(report{Trouble: "a second process at " + what})
		}
		if _, err := newService(what, lock, func(v *visit) { tell(report{Visit: v}) }); err != nil {
			return err
		}
		select {}
	}
	return fmt.Errorf("found %q, expected hook or worker", role)
}

// listen receives the reports of the children.
func (a *arena) listen(t *testing.T) {
	ln, err := net.Listen("unix", a.recorder())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go a.hear(conn)
		}
	}()
}

func (a *arena) recorder() string { return filepath.Join(a.dir, "recorder") }

func (a *arena) hear(conn net.Conn) {
	defer conn.Close()
	for reports := json.NewDecoder(conn); ; {
		var r report
		if reports.Decode(&r) != nil {
			return
		}
		record := a.record.Load()
		switch {
		case r.Visit != nil:
			record.came(r.Lock, r.Visit)
		case r.Trouble != "":
			record.note(func() { record.broken = append(record.broken, r.Trouble) })
		case r.Hook != "":
			if verdict := a.judgeHook(record, r); verdict != "" {
				_, _ = io.WriteString(conn, verdict+"\n")
			}
		}
	}
}
