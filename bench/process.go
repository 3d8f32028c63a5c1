package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience bounds every wait for something that will happen unless something is broken.
const patience = 60 * time.Second

// process is a program under measurement.
type process struct {
	cmd   *exec.Cmd
	log   string        // the file with what it has printed
	ended chan struct{} // closed when it has
}

// start runs a program whose output goes to a file in dir, as that of a server does.
func start(dir, name string, command ...string) (*process, error) {
	p := &process{log: filepath.Join(dir, name+".log"), ended: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it shall not outlive us
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// stop ends the process at once: nothing it has is worth keeping.
func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// listening waits until the process accepts connections at addr.
func (p *process) listening(ctx context.Context, addr string) error {
	for until := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.ended:
			return p.failure("found it ended, expected it to listen at " + addr)
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if time.Now().After(until) {
			return p.failure("found nobody listening at " + addr)
		}
	}
}

// failure is an error with the last lines the process has printed.
func (p *process) failure(what string) error {
	out, _ := os.ReadFile(p.log)
	return fmt.Errorf("%s: %s\n%s", filepath.Base(p.cmd.Path), what, out[max(0, len(out)-2000):])
}

// cpu is the processor time the process has used; nil: none.
func (p *process) cpu() (time.Duration, error) {
	if p == nil {
		return 0, nil
	}
	stat, err := os.ReadFile(p.proc("stat"))
	if err != nil {
		return 0, err
	}
	// The command's name, in brackets, may have blanks in it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const utime, stime = 11, 12
	if len(fields) <= stime {
		return 0, errors.New("found a short " + p.proc("stat"))
	}
	var ticks int
	for _, i := range []int{utime, stime} {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	const perSecond = 100 // USER_HZ, which Linux has the same for all
	return time.Duration(ticks) * time.Second / perSecond, nil
}

func (p *process) proc(file string) string {
	return fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file)
}
