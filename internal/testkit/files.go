package testkit

import (
	"os"
	"path/filepath"
	"testing"
)

// ReadSoon returns what is in a file, as soon as that is something.
func ReadSoon(t *testing.T, file string) string {
	t.Helper()
	var text []byte
	Poll(t, "file "+filepath.Base(file), func() (ok bool) {
		var err error
		text, err = os.ReadFile(file)
		return err == nil && len(text) > 0
	})
	return string(text)
}

// File returns a name for a file, which goes when the test ends.
func File(t *testing.T) string { return filepath.Join(t.TempDir(), "file") }
