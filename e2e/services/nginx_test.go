package services_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// nginx forwards four streams to a web server and refuses the fifth. Behind a lock of four
// slots, forty clients at once, curl and openssl, all get the whole page. This holds if Caddy makes
// the TLS handshake, before the line, and if nginx makes it, after the line.
func TestNginxStreamBehindTLS(t *testing.T) {
	const slots, clients = 4, 40
	n := startNginx(t, slots)
	n.refusesNext(t, slots)

	for _, way := range []struct{ name, route, service string }{
		{"Caddy makes the handshake", "tls\ntcplock %d {\nname nginx\n}", n.plain},
		{"nginx makes the handshake", "tcplock %d {\nname nginx\n}", n.secure},
	} {
		t.Run(way.name, func(t *testing.T) {
			before := len(n.server.Out.String())
			addr := caddytest.FreeAddr(t)
			config := caddytest.Adapt(t, caddytest.LockConfig(addr, fmt.Sprintf(way.route, slots), way.service))
			if err := caddytest.TryLoadJSON(t, caddytest.WithKeyPair(t, config, n.cert, n.key)); err != nil {
				t.Fatal(err)
			}
			var crowd []*caddytest.Program
			for i := range clients {
				crowd = append(crowd, n.client(t, i, addr))
			}
			for _, client := range crowd {
				if out, err := client.Result(t); err != nil || !strings.HasSuffix(out, n.page) {
					t.Errorf("%s: error %v, %d bytes, expected the page of %d\n%.200s", client.Cmd.Path, err, len(out), len(n.page), out)
				}
			}
			caddytest.InLine(t, "nginx", 0, 0)
			n.served(t, before, clients)
		})
	}
	if _, most, _ := n.pages.Counts(); most > slots {
		t.Errorf("the web server had %d connections at once, expected %d at most", most, slots)
	}
}

// nginx is an nginx in front of a web server of the test.
type nginx struct {
	server        *caddytest.Program
	plain, secure string // addresses: of the server as it is, and in TLS
	cert, key     []byte // for localhost
	certFile      string // has the cert
	pages         *caddytest.Service
	page          string // what the web server answers
}

// startNginx starts an nginx with a limit of clients, for both addresses together.
func startNginx(t *testing.T, clients int) *nginx {
	t.Helper()
	modules, _ := filepath.Glob("/usr/lib/nginx/modules/ngx_stream_module.so") // Debian's libnginx-mod-stream
	caddytest.Needs(t, "nginx with its stream module", len(modules) > 0)
	n := &nginx{plain: caddytest.FreeAddr(t), secure: caddytest.FreeAddr(t), page: strings.Repeat("All work and no play.\n", 10_000)}
	n.pages = caddytest.NewService(t, func(conn *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond) // work, so that too many clients could be here at once
		// No length: only the end of TLS shows that the page is whole.
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"+n.page)
	})
	dir := t.TempDir()
	n.certFile = filepath.Join(dir, "cert.pem")
	n.cert, n.key = caddytest.LocalhostCertificate(t)
	config := fmt.Sprintf(`load_module %s;
		daemon off;
		pid pid;
		error_log stderr notice;
		events {}
		stream {
			# One zone for all, and one worker, which has seen a client go when the next comes.
			limit_conn_zone all zone=clients:64k;
			limit_conn clients %d;
			log_format session "session $status";
			access_log /dev/stdout session;
			server {
				listen %s;
				listen %s ssl;
				ssl_certificate cert.pem;
				ssl_certificate_key key.pem;
				proxy_pass %s;
			}
		}`, modules[0], clients, n.plain, n.secure, n.pages.Addr)
	for name, content := range map[string]string{"nginx.conf": config, "cert.pem": string(n.cert), "key.pem": string(n.key)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.server = caddytest.Start(t, nil, caddytest.FindProgram(t, "nginx"), "-p", dir, "-c", "nginx.conf", "-e", "stderr")
	n.server.Prints(t, "start worker process ") // it listens before that
	return n
}

// refusesNext checks that nginx takes this number of clients and not one more.
func (n *nginx) refusesNext(t *testing.T, clients int) {
	t.Helper()
	before := len(n.server.Out.String())
	var conns []net.Conn
	for range clients {
		conns = append(conns, caddytest.Dial(t, n.plain))
	}
	caddytest.ExpectClosed(t, caddytest.Dial(t, n.plain))
	for _, conn := range conns {
		conn.Close()
	}
	caddytest.Eventually(t, "nginx has refused the client after them", func() bool {
		log := n.server.Out.String()[before:]
		return strings.Count(log, "session 200\n") == clients && strings.Contains(log, "limiting connections")
	})
}

// served checks that this number of clients has been served since a place in nginx's log, and
// that none was refused.
func (n *nginx) served(t *testing.T, since, clients int) {
	t.Helper()
	caddytest.Eventually(t, "nginx logs all sessions", func() bool {
		return strings.Count(n.server.Out.String()[since:], "session ") >= clients
	})
	if log := n.server.Out.String()[since:]; strings.Count(log, "session 200\n") != clients {
		t.Errorf("nginx: expected %d clients, and none refused\n%s", clients, log)
	}
}

// client starts a client that asks for the page: curl and openssl in turn. Both trust only the
// certificate.
func (n *nginx) client(t *testing.T, i int, addr string) *caddytest.Program {
	t.Helper()
	host, port, _ := net.SplitHostPort(addr)
	if i%2 == 0 {
		site := "localhost:" + port // HTTP/1.1: Caddy would offer HTTP/2 as well
		return caddytest.Start(t, nil, caddytest.FindProgram(t, "curl"), "-sS", "--fail", "--http1.1", "--cacert", n.certFile, "--resolve", site+":"+host, "https://"+site+"/")
	}
	client := caddytest.Start(t, nil, caddytest.FindProgram(t, "openssl"), "s_client", "-quiet", "-verify_quiet", "-verify_return_error",
		"-connect", addr, "-servername", "localhost", "-CAfile", n.certFile)
	client.Types(t, "GET / HTTP/1.0\r\n\r\n")
	return client
}
