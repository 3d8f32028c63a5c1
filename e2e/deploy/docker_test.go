package deploy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.yaml.in/yaml/v3"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

const dockerExample = "../../examples/docker"

// The image has the Caddy that tcplock is tested with, and is built by the command of xcaddy.md. (.ci/run
// builds with that command.)
func TestDockerfile(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	find := func(what, expression, text string) string {
		found := regexp.MustCompile(expression).FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("found no %s", what)
		}
		return found[1]
	}
	file := read(dockerExample + "/Dockerfile")
	version := find("version of Caddy in go.mod", `(?m)^\tgithub.com/caddyserver/caddy/v2 v(\S+)$`, read("../../go.mod"))
	for _, from := range regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(file, -1) {
		if image := strings.TrimSuffix(from[1], "-builder"); image != "caddy:"+version {
			t.Errorf("found the image %s, expected Caddy %s", from[1], version)
		}
	}
	here := find("command for this tree in xcaddy.md", `(?m)^(xcaddy build .*=)\.$`, read("../../xcaddy.md"))
	if run := find("RUN", `(?m)^RUN (.*)$`, file); run != here+"/src" {
		t.Errorf("found %q, expected %q", run, here+"/src")
	}
}

// docker-compose takes the file.
func TestComposeIsValid(t *testing.T) {
	program := caddytest.FindProgram(t, "docker-compose")
	compose := func(env ...string) *caddytest.Program {
		return caddytest.Start(t, env, program, "-f", dockerExample+"/compose.yaml", "config", "-q")
	}
	caddytest.Exits(t, compose("POSTGRES_PASSWORD=secret"), 0, "^$")
	caddytest.Exits(t, compose("POSTGRES_PASSWORD="), 1, "set a password for the database")
}

// The commands of the pages, in order, have the variables that compose.yaml needs. There is no engine that could
// carry them out: each of them only reads the file here.
func TestComposeCommands(t *testing.T) {
	program := caddytest.FindProgram(t, "docker-compose")
	for _, page := range []string{"docs/deploy.md", "examples/docker/README.md"} {
		commands, err := caddytest.ReadCommands(page)
		if err != nil {
			t.Fatal(err)
		}
		script := "cd " + dockerExample + "\ndocker() { " + program + " config -q && echo read; }\npsql() { :; }\n"
		read := 0
		for _, c := range commands {
			if c.Section == "docker" || page != "docs/deploy.md" {
				script += c.Text + "\n"
				read += strings.Count(c.Text, "docker compose ")
			}
		}
		if read < 4 {
			t.Errorf("%s: found %d commands of docker compose, expected more", page, read)
		}
		caddytest.Exits(t, caddytest.Start(t, nil, "bash", "-euc", script), 0, fmt.Sprintf(`^(read\n){%d}$`, read))
	}
}

// What compose.yaml says fits the other files.
func TestCompose(t *testing.T) {
	text, err := os.ReadFile(dockerExample + "/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var compose struct {
		Services map[string]struct {
			Init           bool
			Build          struct{ Context, Dockerfile string }
			Stop           string `yaml:"stop_grace_period"`
			Ports, Volumes []string
			Command        string
		}
	}
	if err := yaml.Unmarshal(text, &compose); err != nil {
		t.Fatal(err)
	}
	front, database := compose.Services["caddy"], compose.Services["postgres"]
	if _, err := os.Stat(filepath.Join(dockerExample, front.Build.Context, front.Build.Dockerfile)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dockerExample, front.Build.Context, "go.mod")); err != nil { // COPY . /src
		t.Error(err)
	}
	if !slices.Contains(front.Volumes, ".:/etc/caddy:ro") { // where Caddy's image looks for the Caddyfile
		t.Errorf("found the volumes %v, expected one that has the Caddyfile", front.Volumes)
	}
	if !front.Init {
		t.Error("found no init, expected one: see TestFirstProcess")
	}
	if len(database.Ports) > 0 {
		t.Errorf("found the ports %v of the database, expected none: clients could get past the lock", database.Ports)
	}

	listen, to, slots, drain := composedLock(t)
	if port := strings.TrimPrefix(listen, "keep/:"); len(front.Ports) != 1 || front.Ports[0] != port+":"+port || to != "postgres:5432" {
		t.Errorf("found a lock at %s in front of %s, and the ports %v, expected that these fit", listen, to, front.Ports)
	}
	if grace, err := time.ParseDuration(front.Stop); err != nil || grace < drain+5*time.Second {
		t.Errorf("found stop_grace_period %s, expected more than drain %s", front.Stop, drain)
	}
	var connections, reserved int
	if _, err := fmt.Sscanf(database.Command, "postgres -c max_connections=%d -c superuser_reserved_connections=%d", &connections, &reserved); err != nil || connections-reserved != slots {
		t.Errorf("found %q, expected as many connections as the lock has slots: %d", database.Command, slots)
	}
}

// composedLock returns the lock of the example's Caddyfile.
func composedLock(t *testing.T) (listen, to string, slots int, drain time.Duration) {
	t.Helper()
	caddyfile, err := os.ReadFile(dockerExample + "/Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Apps struct {
			Layer4 struct {
				Servers map[string]struct {
					Listen []string
					Routes []struct {
						Handle []struct {
							Handler   string
							Slots     int
							Drain     caddy.Duration
							Upstreams []struct{ Dial []string }
						}
					}
				}
			}
		}
	}
	if err := json.Unmarshal(caddytest.Adapt(t, string(caddyfile)), &config); err != nil {
		t.Fatal(err)
	}
	for _, server := range config.Apps.Layer4.Servers {
		for _, route := range server.Routes {
			if h := route.Handle; h[0].Handler == "tcplock" {
				return server.Listen[0], h[1].Upstreams[0].Dial[0], h[0].Slots, time.Duration(h[0].Drain)
			}
		}
	}
	t.Fatal("found no lock in the Caddyfile")
	return
}
