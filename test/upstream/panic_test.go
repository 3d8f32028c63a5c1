package upstream_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
)

// panicEnv makes the test binary a Caddy at this address, with a handler that panics.
const panicEnv = "UPSTREAM_PANIC"

// A panic in a handler, of one connection, ends the whole process. (net/http recovers and logs it.)
func TestPanicEndsProcess(t *testing.T) {
	addr := freeAddr(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), panicEnv+"="+addr)
	var printed bytes.Buffer
	cmd.Stderr = &printed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("tcp", addr); err == nil {
			defer conn.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("found nothing that listens")
		}
	}
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(printed.String(), "panic: of one connection") {
			t.Errorf("found end %v, expected one by the panic:\n%s", err, printed.String())
		}
	case <-time.After(2 * time.Second):
		mended(t, "caddy-l4", "a process that lives on")
		_ = cmd.Process.Kill()
		<-ended
	}
}

func servePanic(addr string) {
	caddy.RegisterModule(panicker{})
	err := caddy.Load([]byte(fmt.Sprintf(`{"admin": {"disabled": true}, "apps": {"layer4": {"servers": {"s": {
		"listen": [%q], "routes": [{"handle": [{"handler": "test_panic"}]}]}}}}}`, addr)), true)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	time.Sleep(time.Minute)
}

type panicker struct{}

func (panicker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "layer4.handlers.test_panic", New: func() caddy.Module { return new(panicker) }}
}

func (panicker) Handle(*layer4.Connection, layer4.Handler) error { panic("of one connection") }
