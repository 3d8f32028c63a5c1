package caddytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Fill connects clients until the lock has so many holders and waiters. It returns them in order.
func Fill(t *testing.T, addr, lock string, held, waiting int) (clients []*net.TCPConn) {
	t.Helper()
	for i := range held + waiting {
		clients = append(clients, Dial(t, addr))
		InLine(t, lock, min(i+1, held), max(0, i+1-held))
	}
	return clients
}

// Proxied connects like a proxy for a client at source: it sends a PROXY header and then data.
func Proxied(t *testing.T, source, addr, data string) net.Conn {
	t.Helper()
	family, to := "TCP4", "192.0.2.2"
	if net.ParseIP(source).To4() == nil {
		family, to = "TCP6", "2001:db8::2"
	}
	return DialSend(t, addr, fmt.Sprintf("PROXY %s %s %s 1000 9100\r\n%s", family, source, to, data))
}

// Number is the text by which client i tells the service its number.
func Number(i int) string { return fmt.Sprintf("%03d", i) }

// ExpectHolds checks that client i is the next to reach the service, and stays there for about as
// long as it may hold its slot. (The time cannot be exact: it begins a little before the service
// accepts the client. But the bug to catch here would leave it no time at all.)
func ExpectHolds(t *testing.T, svc *Service, i int, hold time.Duration) {
	t.Helper()
	conn := svc.Next(t)
	start := time.Now()
	Expect(t, conn, Number(i))
	ExpectEOF(t, conn)
	if took := time.Since(start); took < hold/2 {
		t.Errorf("client %d was cut after %v, expected about %v", i, took, hold)
	}
}

// Way is a route to tcplock: a matcher or handlers before it, and how a client passes them.
type Way struct {
	Name     string
	Matcher  string // of the route
	Handlers string // before tcplock
	before   string // what a client must send first, in one segment with its data
	Seen     bool   // the service gets before too
	Tls      bool   // the client speaks TLS, after before
}

// Ways has all ways that the tests try.
var Ways = []Way{
	{Name: "plain"},
	{Name: "tls", Handlers: "tls", Tls: true},
	{Name: "proxy_protocol", Handlers: "proxy_protocol {\nallow 127.0.0.1/32\n}", before: "PROXY TCP4 192.0.2.1 192.0.2.2 1000 9100\r\n"},
	{Name: "proxy_protocol and tls", Handlers: "proxy_protocol {\nallow 127.0.0.1/32\n}\ntls", before: "PROXY TCP4 192.0.2.1 192.0.2.2 1000 9100\r\n", Tls: true},
	{Name: "matcher", Matcher: "@http http\nroute @http", before: "PUT /job HTTP/1.0\r\n\r\n", Seen: true},
}

// Serve starts Caddy with a lock at the end of the way and returns its address.
func (w Way) Serve(t *testing.T, lock, service string) string {
	t.Helper()
	addr := FreeAddr(t)
	route := w.Matcher
	if route == "" {
		route = "route"
	}
	cfg := Adapt(t, Global(fmt.Sprintf("layer4 {\n%s {\n%s {\n%s\n}\n}\n}", OnWay(addr), route, WayOut(w.Handlers+"\n"+lock, service))))
	if w.Tls {
		cfg = WithCertificate(t, cfg)
	}
	if err := TryLoadJSON(t, cfg); err != nil {
		t.Fatal(err)
	}
	return addr
}

// Client is the connection of a client that has come by a way.
type Client struct {
	net.Conn
	tcp *net.TCPConn // equal to Conn, unless that is TLS
}

// Come connects a client and sends data, which the service will get.
func (w Way) Come(t *testing.T, addr, data string) *Client {
	t.Helper()
	tcp := Dial(t, addr)
	c := &Client{Conn: tcp, tcp: tcp}
	first := w.before + data
	if w.Tls {
		Send(t, tcp, w.before)
		secure := tls.Client(tcp, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
		if err := secure.Handshake(); err != nil {
			t.Fatal(err)
		}
		c.Conn, first = secure, data
	}
	Send(t, c, first)
	return c
}

// CloseWrite closes the sending side. With TLS it only sends an alert.
func (c *Client) CloseWrite() {
	_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// End also closes the sending side of the socket. The receiving side stays open, because a close
// would be a reset if there is data that the client has not read, such as a TLS session ticket.
func (c *Client) End() {
	c.CloseWrite()
	_ = c.tcp.CloseWrite()
}

// Reset breaks the connection.
func (c *Client) Reset() {
	_ = c.tcp.SetLinger(0)
	_ = c.tcp.Close()
}

// Passed is the part of before that the service gets.
func (w Way) Passed() string {
	if w.Seen {
		return w.before
	}
	return ""
}

// Flood sends data again and again until the socket takes no more. It returns the number of bytes
// and their checksum.
func Flood(conn *net.TCPConn, data []byte) (sent int64, sum uint32) {
	for {
		_ = conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := conn.Write(data)
		sent, sum = sent+int64(n), crc32.Update(sum, crc32.IEEETable, data[:n])
		if err != nil {
			return sent, sum
		}
	}
}

// Parts of routes: a PROXY header, the handler that accepts it, and one that reads slowly.
const (
	ProxyHeader = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 9100\r\n"
	AllowProxy  = "proxy_protocol {\nallow 127.0.0.1/32\n}"
	Slowdown    = "throttle {\nread_bytes_per_second 1000000\n}"
)

// DialSend connects and sends data.
func DialSend(t *testing.T, addr, data string) net.Conn {
	conn := Dial(t, addr)
	Send(t, conn, data)
	return conn
}

// WithHeader connects and sends a PROXY header and data.
func WithHeader(t *testing.T, addr, data string) net.Conn { return DialSend(t, addr, ProxyHeader+data) }

// LogFile returns an option that sends Caddy's errors to a file, and a function that waits for one of
// them.
func LogFile(t *testing.T) (option string, logged func(t *testing.T, want string)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log")
	return fmt.Sprintf("log {\noutput file %s\nlevel ERROR\n}", file), func(t *testing.T, want string) {
		t.Helper()
		Eventually(t, "the log says: "+want, func() bool {
			text, _ := os.ReadFile(file)
			return strings.Contains(string(text), want)
		})
	}
}

// WithCertificate adds a self-signed certificate for localhost to a config.
func WithCertificate(t *testing.T, cfg []byte) []byte {
	t.Helper()
	cert, key := LocalhostCertificate(t)
	return WithKeyPair(t, cfg, cert, key)
}

// LocalhostCertificate makes a self-signed certificate for localhost and its key, both in PEM.
func LocalhostCertificate(t *testing.T) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "localhost"}, // curl requires one
		DNSNames:     []string{"localhost"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// WithKeyPair adds a certificate and its key to a config.
func WithKeyPair(t *testing.T, cfg, certPEM, keyPEM []byte) []byte {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal(cfg, &config); err != nil {
		t.Fatal(err)
	}
	config["apps"].(map[string]any)["tls"] = map[string]any{
		"disable_storage_clean": true,
		"certificates": map[string]any{"load_pem": []any{map[string]any{
			"certificate": string(certPEM),
			"key":         string(keyPEM),
		}}},
	}
	cfg, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}
