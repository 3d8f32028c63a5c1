package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
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
func (p *process) listening(ctx context.Context, addr netip.AddrPort) error {
	return until(ctx, fmt.Sprintf("somebody listens at %v", addr), func() (bool, error) {
		select {
		case <-p.ended:
			return false, p.failure("it has ended")
		default:
		}
		c, err := dial(ctx, 0, addr)
		if err != nil {
			return false, nil
		}
		return true, c.Close()
	})
}

// until polls for a condition.
func until(ctx context.Context, what string, holds func() (bool, error)) error {
	for end := time.Now().Add(patience); ; {
		ok, err := holds()
		if err != nil {
			return fmt.Errorf("waiting until %s: %w", what, err)
		}
		if ok {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("waiting until %s: found that it did not within %v", what, patience)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
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

// descriptors is how many the process has open.
func (p *process) descriptors() (int, error) {
	dir, err := os.Open(p.proc("fd"))
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	return len(names), err
}

// calm waits until the process has neither taken nor closed a connection for so long.
func (p *process) calm(ctx context.Context, d time.Duration) error {
	before, since := 0, time.Now()
	return until(ctx, "the server has nothing to do", func() (bool, error) {
		now, err := p.descriptors()
		if now != before {
			before, since = now, time.Now()
		}
		return time.Since(since) > d, err
	})
}

// rss is the memory the process has, in KiB.
func (p *process) rss() (float64, error) {
	// Unlike that in status, this one is exact.
	rollup, err := os.ReadFile(p.proc("smaps_rollup"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(rollup)) {
		if kib, ok := strings.CutPrefix(line, "Rss:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kib), "kB")), 64)
		}
	}
	return 0, errors.New("found no Rss in " + p.proc("smaps_rollup"))
}

// settledRSS waits until the memory does not change any more, but for a little.
func (p *process) settledRSS(ctx context.Context, settle time.Duration) (float64, error) {
	last, err := p.rss()
	since, end := time.Now(), time.Now().Add(patience)
	for err == nil && time.Since(since) < settle && time.Now().Before(end) {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(settle / 10):
		}
		var now float64
		if now, err = p.rss(); math.Abs(now-last) > last/200 {
			last, since = now, time.Now()
		}
	}
	return last, err
}

func (p *process) proc(file string) string {
	return fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file)
}
