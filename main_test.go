package tcplock_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// built is the directory of what the tests have built, if they have.
var built string

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(built)
	os.Exit(code)
}

var buildOnce = sync.OnceValues(func() (path string, err error) {
	if built, err = os.MkdirTemp("", "tcplock"); err != nil {
		return "", err
	}
	path = filepath.Join(built, "caddy")
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	// Its version is of no use here, and a source tree without git has none.
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./cmd/caddy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build ./cmd/caddy: %w\n%s", err, out)
	}
	return path, nil
})

// buildCaddy builds cmd/caddy, once for all tests that need the program itself, and
// returns its path.
func buildCaddy(t *testing.T) string {
	t.Helper()
	path, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
