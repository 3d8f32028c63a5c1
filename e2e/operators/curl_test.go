package operators_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// The curl commands of docs/admin.md work as they are, in their order, with a lock as the page
// describes it. The page's example has all fields of the answer and no others.
func TestAdminDoc(t *testing.T) {
	caddytest.FindProgram(t, "curl")
	doc, err := os.ReadFile("../../docs/admin.md")
	if err != nil {
		t.Fatal(err)
	}
	svc := caddytest.NewService(t, caddytest.Echo)
	addr := caddytest.FreeAddr(t)
	config, a := caddytest.WithAdmin(t, caddytest.LockConfig(addr, `tcplock {
		name soffice
		service sleep 1000 {
			ready exec true
		}
		on release exec true
	}`, svc.Addr))
	caddytest.Load(t, config)
	caddytest.Eventually(t, "the service is ready", func() bool { return a.Lock(t, "soffice").Workers[0].State == "up" })
	for range 20 { // so that the ids are those in the page
		c := caddytest.Dial(t, addr)
		c.Close()
	}
	caddytest.InLine(t, "soffice", 0, 0)
	caddytest.Eventually(t, "20 have gone", func() bool {
		s := a.Lock(t, "soffice")
		return s.Connections["served"]+s.Connections["client_gone"] == 20
	})
	holder := caddytest.Dial(t, addr)
	caddytest.Send(t, holder, "hello")
	caddytest.Expect(t, holder, "hello")
	caddytest.Send(t, caddytest.Dial(t, addr), "hello")
	caddytest.InLine(t, "soffice", 1, 1)

	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(doc, -1)
	for i, block := range blocks {
		for line := range strings.Lines(string(block[1])) {
			command := strings.ReplaceAll(strings.TrimSpace(line), "localhost:2019", a.Addr)
			if strings.Contains(command, "run?") { // the holder would stay for good
				holder.Close()
			}
			out, err := exec.Command("sh", "-c", command+" -w '%{http_code}'").CombinedOutput()
			want := "200"
			if strings.Contains(command, "wait=1s") { // the holder is still there
				want = "504"
			}
			if err != nil || !strings.HasSuffix(string(out), want) {
				t.Errorf("block %d: %s: error %v, found %s, expected status %s", i+1, command, err, out, want)
			}
		}
	}
	if len(blocks) < 6 {
		t.Errorf("found %d blocks of commands, expected one for each verb", len(blocks))
	}
	var example map[string]any
	block := regexp.MustCompile("(?s)```json\n(.*?)```").FindSubmatch(doc)
	if err := json.Unmarshal(block[1], &example); err != nil {
		t.Fatal(err)
	}
	_, body := a.Ask(t, "GET", "/tcplock/locks/soffice")
	var found map[string]any
	if err := json.Unmarshal([]byte(body), &found); err != nil {
		t.Fatal(err)
	}
	for field := range found {
		if !strings.Contains(string(doc), "`"+field+"`") && example[field] == nil {
			t.Errorf("found field %q, expected docs/admin.md to name it", field)
		}
	}
	for field := range example {
		if field != "paused" && found[field] == nil {
			t.Errorf("docs/admin.md names the field %q, which is not there", field)
		}
	}
}
