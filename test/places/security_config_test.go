package places_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// What the author of a config, or of a part of one, can bring about: the attacks of
// docs/security.md that no other file has.

// The largest numbers that a config may have. A lock with them works, takes little memory, and
// ends. Larger ones are refused.
func TestHugeNumbers(t *testing.T) {
	if caddytest.Apart(t) {
		return
	}
	const longest, most = "2562047h", "9007199254740991" // in JSON on its way through Caddy, a number is exact up to here
	svc := caddytest.NewService(t, caddytest.Echo)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	addr := caddytest.LockServer(t, fmt.Sprintf(`tcplock 1000000 {
		max_waiting %[2]s
		max_per_client %[2]s
		max_waiting_per_client %[2]s
		priority 1000
		priority_age 24h
		wait_timeout %[1]s
		hold_timeout %[1]s
		linger %[1]s
		drain 0
		on activate {
			every %[2]s
			exclusive %[1]s
			retry %[2]s 24h
			exec true {
				timeout %[1]s
			}
		}
		on release {
			every 87600h
			exec true
		}
		on idle %[1]s exec true
	}`, longest, most), svc.Addr)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 300<<20 {
		t.Errorf("found %d MiB allocated, expected less than 300", used>>20)
	}
	for range 3 {
		client := caddytest.DialSend(t, addr, "hello")
		caddytest.Expect(t, client, "hello")
		client.Close()
	}
	caddytest.InLine(t, "default", 0, 0)

	for _, option := range []string{
		"slots 1", // no such option
		"max_waiting 9223372036854775808", "max_waiting -1", "max_waiting 1e9",
		"wait_timeout 2562048h", "wait_timeout -1s", "hold_timeout 99999999999999999999d", "linger NaN",
		"priority 1001", "priority_age 25h", "workers localhost:1-65536", "workers localhost:0-65535",
		"on activate {\nevery 0\nexec true\n}", "on activate {\nretry -1\nexec true\n}", "on idle 0 exec true",
	} {
		if err := tryAdapt(caddytest.LockConfig(addr, "tcplock {\n"+option+"\n}", svc.Addr)); err == nil {
			t.Errorf("%s: found no error", option)
		}
	}
	for _, slots := range []string{"0", "-1", "1000001", "1000000000", "99999999999999999999", "0x10"} {
		if err := tryAdapt(caddytest.LockConfig(addr, "tcplock "+slots, svc.Addr)); err == nil {
			t.Errorf("slots %s: found no error", slots)
		}
	}
}

// A lock's name is in URLs, in metrics, in the environment of commands and on a page. A name
// that could be more than a name in one of them is refused.
func TestLockNameIsPlain(t *testing.T) {
	for _, name := range []string{
		"<script>alert(1)</script>", "a b", "a/b", "..", ".", "a\x00", "a\n", "a\"", "a,b", "a=b", "a{b}", "{env.HOME}", "$(id)", "`id`", "é", "\u202e", strings.Repeat("a", 65),
	} {
		cfg := fmt.Sprintf(`{"apps":{"layer4":{"servers":{"a":{"listen":["127.0.0.1:0"],"routes":[{"handle":[{"handler":"tcplock","name":%q},{"handler":"echo"}]}]}}}}}`, name)
		if err := caddytest.TryLoadJSON(t, []byte(strings.ReplaceAll(cfg, `\x00`, `\u0000`))); err == nil || !strings.Contains(err.Error(), "expected 1 to 64 letters, digits or any of . _ -") {
			t.Errorf("%q: found %v, expected that the name is refused", name, err)
		}
	}
}

func tryAdapt(caddyfile string) error {
	_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	return err
}
