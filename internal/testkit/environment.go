package testkit

import "testing"

// WantServiceManagerHidden runs a shell script with an environment, and looks that what systemd has
// told Caddy alone does not reach it, and that what the environment sets does.
func WantServiceManagerHidden(t *testing.T, run func(script string, env map[string]string)) {
	t.Helper()
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		t.Setenv(name, "secret of Caddy")
	}
	t.Setenv("TCPLOCK_TEST_KEPT", "kept")
	file := File(t)
	run(`env | sort | grep -e NOTIFY -e WATCHDOG -e LISTEN -e KEPT | tr '\n' ' ' >"$FILE.new"; mv "$FILE.new" "$FILE"`,
		map[string]string{"LISTEN_FDS": "2", "FILE": file})
	if got, want := ReadSoon(t, file), "LISTEN_FDS=2 TCPLOCK_TEST_KEPT=kept "; got != want {
		t.Errorf("found %q, expected %q", got, want)
	}
}
