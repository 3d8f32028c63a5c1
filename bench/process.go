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

// patience is how long to wait for something that must happen.
const patience = 60 * time.Second

// process is a program under measurement.
type process struct {
	cmd   *exec.Cmd
	log   string        // the file with its output
	ended chan struct{} // closed when the process has ended
	quit  os.Signal     // what ends the process; nil: it is killed, since it has nothing to save
}

// start starts a program. Its output goes to a file in dir, as is usual for a server.
func start(dir, name string, command ...string) (*process, error) {
	return launch(exec.Command(command[0], command[1:]...), dir, name)
}

func launch(cmd *exec.Cmd, dir, name string) (*process, error) {
	p := &process{cmd: cmd, log: filepath.Join(dir, name+".log"), ended: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir, "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // dies with this process
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (p *process) stop() {
	if p.quit != nil {
		_ = p.cmd.Process.Signal(p.quit)
		select {
		case <-p.ended:
			return
		case <-time.After(patience):
		}
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// listening waits until the process accepts connections at addr.
func (p *process) listening(ctx context.Context, addr netip.AddrPort) error {
	return until(ctx, fmt.Sprintf("the server listens at %v", addr), func() (bool, error) {
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

// until waits until holds returns true, for patience at most.
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

// prints waits until the output has the text.
func (p *process) prints(ctx context.Context, text string) error {
	return until(ctx, fmt.Sprintf("it prints %q", text), func() (bool, error) {
		out, err := os.ReadFile(p.log)
		if err == nil && bytes.Contains(out, []byte(text)) {
			return true, nil
		}
		select {
		case <-p.ended:
			return false, p.failure("it has ended")
		default:
			return false, err
		}
	})
}

// failure returns an error with the end of the output.
func (p *process) failure(what string) error {
	out, _ := os.ReadFile(p.log)
	return fmt.Errorf("%s: %s\n%s", filepath.Base(p.cmd.Path), what, out[max(0, len(out)-2000):])
}

// cpu is the processor time that the process has used, 0 if p is nil.
func (p *process) cpu() (time.Duration, error) {
	if p == nil {
		return 0, nil
	}
	stat, err := os.ReadFile(p.proc("stat"))
	if err != nil {
		return 0, err
	}
	// The name of the command, in brackets, may have spaces.
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
	const perSecond = 100 // USER_HZ, the same on all Linux systems
	return time.Duration(ticks) * time.Second / perSecond, nil
}

// descriptors is the number of open descriptors of the process.
func (p *process) descriptors() (int, error) {
	dir, err := os.Open(p.proc("fd"))
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	return len(names), err
}

// calm waits until the process has neither accepted nor closed a connection for the time d.
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

// rss is the resident memory of the process, in KiB.
func (p *process) rss() (float64, error) {
	// The figure in smaps_rollup is exact, unlike the one in status.
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

// settledRSS returns the memory once it has changed by less than 0.5 % for the time settle.
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
