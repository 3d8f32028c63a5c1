package caddytest

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// ReadExample returns the contents of a file of an example.
func ReadExample(t *testing.T, name, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(Root, "examples", name, file))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// LoadExample starts Caddy in this process with the Caddyfile of an example, in front of the
// service. It returns the address of the lock and Caddy's storage folder.
func LoadExample(t *testing.T, name, service string) (addr, storage string) {
	t.Helper()
	addr = FreeAddr(t)
	t.Setenv("LOCK", addr)
	t.Setenv("SERVICE", service)
	cfg := KeptToTest(t, Adapt(t, string(ReadExample(t, name, "Caddyfile"))))
	if err := TryLoadJSON(t, cfg); err != nil {
		t.Fatalf("load: %v", err)
	}
	var kept struct {
		Storage struct{ Root string }
	}
	_ = json.Unmarshal(cfg, &kept)
	return addr, kept.Storage.Root
}

// KeptToTest isolates a config from other Caddys, as Global does for a Caddyfile, and adds a storage
// folder.
func KeptToTest(t *testing.T, config []byte) []byte {
	t.Helper()
	var cfg map[string]any
	if err := json.Unmarshal(config, &cfg); err != nil {
		t.Fatal(err)
	}
	storage, err := os.MkdirTemp("", "tcplock-storage")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Caddy cleans the storage in the background, even for a moment after it has stopped.
		Eventually(t, "storage removed", func() bool { return os.RemoveAll(storage) == nil })
	})
	cfg["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	cfg["storage"] = map[string]any{"module": "file_system", "root": storage}
	if apps, _ := cfg["apps"].(map[string]any); apps["pki"] == nil && apps != nil {
		// Caddy's own certificates are not for this machine's store, which Caddy changes if it may.
		apps["pki"] = map[string]any{"certificate_authorities": map[string]any{"local": map[string]any{"install_trust": false}}}
	}
	config, err = json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// PrintAndGo is a client that sends a job and closes.
func PrintAndGo(t *testing.T, addr string, job []byte) {
	conn := Dial(t, addr)
	go func() {
		_, _ = conn.Write(job)
		conn.Close()
	}()
}

// PrintJobs sends jobs to the printer example by the clients in turn. Each job waits until the one
// before is in line. The printer must get all jobs whole, in order, one at a time.
func PrintJobs(t *testing.T, clients ...func(t *testing.T, addr string, job []byte)) {
	const settle = 500 * time.Millisecond // as in the Caddyfile
	printer := NewService(t, nil)
	addr, _ := LoadExample(t, "printer", printer.Addr)
	var jobs [][]byte
	for i := range 6 {
		size := 100 << (4 * (i % 4)) // up to 400 KiB, which may be more than the sockets hold
		jobs = append(jobs, bytes.Repeat([]byte{'0' + byte(i)}, size))
		clients[i%len(clients)](t, addr, jobs[i])
		InLine(t, "printer", 1, i)
	}
	var done time.Time
	for i, job := range jobs {
		conn := printer.Next(t)
		if pause := time.Since(done); pause < settle {
			t.Errorf("job %d came %s after the one before, expected at least %s", i, pause, settle)
		}
		_ = conn.SetReadDeadline(time.Now().Add(Patience))
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, job) {
			t.Errorf("job %d: got %d bytes that begin %.9q, error %v, expected %d that begin %.9q", i, len(got), got, err, len(job), job)
		}
		done = time.Now()
		printer.Leave(conn)
	}
	InLine(t, "printer", 0, 0)
	if _, most, total := printer.Counts(); most != 1 || total != len(jobs) {
		t.Errorf("the printer had %d connections, up to %d at once, expected %d and 1", total, most, len(jobs))
	}
}
