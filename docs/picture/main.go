// Command picture makes docs/top.svg: it starts Caddy with three locks, services behind
// them and clients in front of them, runs "caddy tcplock top" in a terminal of tmux, and
// draws what stands there after a while. Run it in the module's directory:
//
//	go run ./docs/picture
//
// It needs tmux, and takes about a minute. All of it stays on the loopback interface.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	columns, lines = 100, 30
	watched        = 45 * time.Second
)

// caddyfile has the locks. The first is the one to be seen in full: its service is this
// program, with -serve.
const caddyfile = `{
	admin 127.0.0.1:2019
	persist_config off
	layer4 {
		127.0.0.1:9001 {
			route {
				tcplock {
					name office
					workers 127.0.0.1:8101-8103
					service %s -serve {l4.tcplock.worker} {
						restart every 4
					}
				}
				proxy {l4.tcplock.worker}
			}
		}
		127.0.0.1:9002 {
			route {
				tcplock 8 {
					name postgres
					max_waiting 20
				}
				proxy 127.0.0.1:8200
			}
		}
		127.0.0.1:9003 {
			route {
				tcplock {
					name printer
					max_waiting 5
				}
				proxy 127.0.0.1:8300
			}
		}
	}
}
`

func main() {
	worker := flag.String("serve", "", "be a service at this `address`")
	flag.Parse()
	var err error
	if *worker != "" {
		err = serve(*worker, 2*time.Second, 6*time.Second)
	} else {
		err = makePicture("docs/top.svg")
	}
	if err != nil {
		log.Fatal(err)
	}
}

func makePicture(file string) (err error) {
	dir, err := os.MkdirTemp("", "picture")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	caddy, config, socket := filepath.Join(dir, "caddy"), filepath.Join(dir, "Caddyfile"), filepath.Join(dir, "tmux")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", caddy, "./cmd/caddy").CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.WriteFile(config, fmt.Appendf(nil, caddyfile, self), 0o600); err != nil {
		return err
	}
	server := exec.Command(caddy, "run", "--config", config)
	server.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	if err := server.Start(); err != nil {
		return err
	}
	defer func() {
		_ = server.Process.Signal(os.Interrupt)
		err = errors.Join(err, server.Wait())
	}()

	go serve("127.0.0.1:8200", 20*time.Millisecond, time.Second)
	go serve("127.0.0.1:8300", time.Second, 2*time.Second)
	for i := range 10 {
		go visit("127.0.0.1:9001", i, 5*time.Second)
		go visit("127.0.0.1:9002", i, time.Second)
		go visit("127.0.0.1:9003", i, 10*time.Second)
	}

	tmux := func(args ...string) (string, error) {
		out, err := exec.Command("tmux", append([]string{"-u", "-S", socket}, args...)...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("tmux %v: %w\n%s", args, err, out)
		}
		return string(out), err
	}
	_, err = tmux("-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(columns), "-y", fmt.Sprint(lines), "LC_ALL=C.UTF-8 "+caddy+" tcplock top")
	if err != nil {
		return err
	}
	defer tmux("kill-server")
	time.Sleep(watched)
	if out, err := exec.Command(caddy, "tcplock", "pause", "printer").CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	time.Sleep(watched / 4)
	screen, err := tmux("capture-pane", "-p", "-e", "-N")
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(svg(screen, columns)), 0o644)
}

// serve is a service that takes its time for each connection.
func serve(addr string, least, most time.Duration) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if _, err := conn.Read(make([]byte, 1<<10)); err == nil { // the lock's look whether it is ready sends nothing
				time.Sleep(least + rand.N(most-least))
				_, _ = conn.Write(make([]byte, 1<<10+rand.N(100<<10)))
			}
		}()
	}
}

// visit is a client that comes again and again.
func visit(addr string, number int, pause time.Duration) {
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(11+number))}}
	for {
		time.Sleep(rand.N(pause))
		conn, err := from.Dial("tcp", addr)
		if err != nil {
			continue
		}
		_, _ = conn.Write(make([]byte, 100+rand.N(900)))
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
}
