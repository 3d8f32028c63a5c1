package proc

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A command that cannot be killed, such as sudo if Caddy is not root, must not keep a slot for ever.
func TestExecUnkillable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := await(t.Context(), time.Minute, nil, func() error { return syscall.EPERM })
		if want := "not done after its timeout of 1m0s, still running 5s after it was to be killed (operation not permitted)"; err.Error() != want {
			t.Errorf("found %v, expected %s", err, want)
		}
		if took := time.Since(start); took != time.Minute+KillDelay {
			t.Errorf("found %s, expected %s", took, time.Minute+KillDelay)
		}
	})
}
