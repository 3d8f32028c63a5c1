package vars

import (
	"maps"
	"slices"
	"testing"
)

// The parts of a worker's address are values of their own. An address that is none leaves them
// empty.
func TestAddWorker(t *testing.T) {
	for worker, want := range map[string][2]string{
		"localhost:8102":  {"localhost", "8102"},
		"tcp4/[::1]:80":   {"::1", "80"},
		"unix//run/s":     {"/run/s", ""},
		"":                {},
		"localhost:ports": {},
	} {
		values := make(map[string]string)
		AddWorker(values, worker)
		expected := map[string]string{"worker": worker, "worker_host": want[0], "worker_port": want[1]}
		if !maps.Equal(values, expected) {
			t.Errorf("%q: found %q, expected %q", worker, values, expected)
		}
	}
}

// The values are placeholders and variables; a placeholder of anything else is refused.
func TestValues(t *testing.T) {
	t.Setenv("TCPLOCK_TEST_TEXT", "text")
	values := map[string]string{"slot": "2", "name": "printer"}
	if got := Replacer(values).ReplaceAll("{l4.tcplock.name} {l4.tcplock.slot} {env.TCPLOCK_TEST_TEXT}", "?"); got != "printer 2 text" {
		t.Errorf("found %q, expected the values", got)
	}
	if got, want := slices.Sorted(slices.Values(Environ(values))), []string{"TCPLOCK_NAME=printer", "TCPLOCK_SLOT=2"}; !slices.Equal(got, want) {
		t.Errorf("found %q, expected %q", got, want)
	}
	if err := Check(`{l4.tcplock.slot} {env.NONE} \{}`, values); err != nil {
		t.Error(err)
	}
	err := Check("{l4.conn.remote_addr}", values)
	want := `found "{l4.conn.remote_addr}": unrecognized placeholder {l4.conn.remote_addr}, expected {l4.tcplock.name|slot} or a global one such as {env.*} (a plain brace is \{)`
	if err == nil || err.Error() != want {
		t.Errorf("found %v, expected %s", err, want)
	}
}
