package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine describes the machine and the programs of the measurements.
type machine struct {
	Processor  string  `json:"processor"`
	Processors int     `json:"processors"`
	Kernel     string  `json:"kernel"`
	HAProxy    string  `json:"haproxy"`
	Go         string  `json:"go"`
	Load       float64 `json:"load"` // the load average of the last minute
}

func thisMachine() (machine, error) {
	m := machine{Processors: runtime.NumCPU(), Go: runtime.Version()}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, err
	}
	m.Kernel = unix.ByteSliceToString(u.Release[:])
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(info)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			m.Processor = strings.Trim(name, "\t :\n")
			break
		}
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return m, err
	}
	first, _, _ := strings.Cut(string(load), " ")
	if m.Load, err = strconv.ParseFloat(first, 64); err != nil {
		return m, err
	}
	version, err := exec.Command("haproxy", "-v").Output()
	if err != nil {
		return m, fmt.Errorf("haproxy -v: %w (on Debian: apt-get install haproxy)", err)
	}
	m.HAProxy, _, _ = strings.Cut(string(version), " - ")
	return m, nil
}

func (m machine) String() string {
	s := fmt.Sprintf("%s; %s, processors: %d; Linux %s; %s", m.HAProxy, m.Processor, m.Processors, m.Kernel, m.Go)
	if m.Load > 0.2 {
		s += fmt.Sprintf("\nThe machine is not idle (load average %.2f): take no figure for more than a hint.", m.Load)
	}
	return s
}
