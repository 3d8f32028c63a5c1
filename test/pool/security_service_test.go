package pool_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

// What the service behind the lock can do: the attacks of docs/security.md that no other
// file has.

// A worker has a certificate with 99 long names and control characters in it, and the proxy's
// error quotes it. Of that only a short beginning is shown, as plain text.
func TestHostileCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	for i := range 99 {
		template.DNSNames = append(template.DNSNames, fmt.Sprintf("\x1b[2J%d.%s", i, strings.Repeat("x", 400)))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	svc := caddytest.NewService(t, func(conn *net.TCPConn) { _ = tls.Server(conn, config).Handshake() })
	addr := caddytest.FreeAddr(t)
	route := fmt.Sprintf("tcplock {\nworkers %s\nwait_timeout 200ms\n}\nproxy {\nupstream {l4.tcplock.worker} {\ntls\n}\n}", "localhost:"+caddytest.PortOf(t, svc.Addr))
	caddyfile, a := caddytest.WithAdmin(t, caddytest.Global(fmt.Sprintf("layer4 {\n%s {\nroute {\n%s\n}\n}\n}", addr, route)))
	caddytest.Load(t, caddyfile)
	caddytest.ExpectClosed(t, caddytest.DialSend(t, addr, "hello"))
	_, body := a.Ask(t, "GET", "/tcplock/locks/default")
	if !strings.Contains(body, "worker_down") || !strings.Contains(body, "x509") {
		t.Errorf("found %s, expected that the worker is down for its certificate", body[:min(len(body), 1000)])
	}

	if len(body) > 4000 || strings.Contains(body, `\u001b`) {
		t.Errorf("found an answer of %d bytes, expected at most 4000, and no escape sequence: %.4000s", len(body), body)
	}
}
