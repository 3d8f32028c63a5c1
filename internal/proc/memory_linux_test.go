package proc

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/testkit"
)

const sharedMemory = 64 << 20

// TestMemorySharer is not a test, but the program of the next one: a server and its workers, which
// share memory.
func TestMemorySharer(t *testing.T) {
	file := os.Getenv("TCPLOCK_TEST_SHARED")
	if file == "" {
		return
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, sharedMemory, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("TCPLOCK_TEST_WORKER") == "" {
		for range 4 {
			worker := exec.Command(os.Args[0], "-test.run=^TestMemorySharer$")
			worker.Env = append(os.Environ(), "TCPLOCK_TEST_WORKER=1")
			if err := worker.Start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	fmt.Println(memory[0])
	select {}
}

// Memory that the processes of a service share counts once: 64 MiB in five processes are not 320.
func TestSharedMemoryCountsOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	if _, err := os.Stat("/proc/self/smaps_rollup"); err != nil {
		t.Skip("the system does not tell how much of its memory a process shares")
	}
	shared := filepath.Join(t.TempDir(), "shared")
	if err := os.WriteFile(shared, make([]byte, sharedMemory), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestMemorySharer$")
	cmd.Env = append(os.Environ(), "TCPLOCK_TEST_SHARED="+shared)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	t.Cleanup(func() {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	resident := func() (total uint64) {
		all, err := machine.descendants(pid)
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range all {
			if p, err := procfs.NewProc(pid); err == nil {
				n, _ := wholeMemory(p)
				total += n
			}
		}
		return total
	}
	testkit.Poll(t, "five processes that have the memory", func() bool { return resident() > 5*sharedMemory })
	n, err := (&Process{cmd: cmd}).Memory()
	if whole := resident(); err != nil || n < sharedMemory || n > whole-4*sharedMemory {
		t.Errorf("found %d bytes, error %v, expected at least %d, and at most %d, which is what the five have less four times that",
			n, err, sharedMemory, whole-4*sharedMemory)
	}
}
