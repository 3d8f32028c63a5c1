package tcplock_test

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
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tcplock "github.com/seed-4dbef00f/caddy-tcplock"
)

// place is a place in a config where tcplock may stand. (More are in ways.)
type place struct {
	name   string
	server string // the server, with the lock and the service to be filled in
	come   func(t *testing.T, addr, data string) net.Conn
}

const (
	proxyHeader = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 9100\r\n"
	allowProxy  = "proxy_protocol {\nallow 127.0.0.1/32\n}"
	slowdown    = "throttle {\nread_bytes_per_second 1000000\n}"
)

var places = []place{
	{"before tls", "route {\n%s\ntls\nproxy %s\n}", withTLS},
	{"before proxy_protocol", "route {\n%s\n" + allowProxy + "\nproxy %s\n}", withHeader},
	{"between proxy_protocol and tls", "route {\n" + allowProxy + "\n%s\ntls\nproxy %s\n}", withHeaderAndTLS},
	{"before throttle", "route {\n%s\n" + slowdown + "\nproxy %s\n}", plainly},
	{"after throttle", "route {\n" + slowdown + "\n%s\nproxy %s\n}", plainly},
	{"in subroute", "route {\nsubroute {\nroute {\n%s\nproxy %s\n}\n}\n}", plainly},
	{"in subroute with matcher", "route {\nsubroute {\n@number regexp [0-9]+ 3\nroute @number {\n%s\nproxy %s\n}\n}\n}", plainly},
	{"in subroute after tls", "@tls tls\nroute @tls {\ntls\nsubroute {\nroute {\n%s\nproxy %s\n}\n}\n}", withTLS},
	{"before subroute", "route {\n%s\nsubroute {\n@number regexp [0-9]+ 3\nroute @number {\nproxy %s\n}\n}\n}", plainly},
	{"in a later route", "@tls tls\nroute @tls {\ntls\n}\nroute {\n%s\nproxy %s\n}", withTLS},
}

func plainly(t *testing.T, addr, data string) net.Conn {
	conn := dial(t, addr)
	send(t, conn, data)
	return conn
}

func withHeader(t *testing.T, addr, data string) net.Conn { return plainly(t, addr, proxyHeader+data) }

func withTLS(t *testing.T, addr, data string) net.Conn { return shakeHands(dial(t, addr), data) }

func withHeaderAndTLS(t *testing.T, addr, data string) net.Conn {
	return shakeHands(plainly(t, addr, proxyHeader), data)
}

// shakeHands begins a handshake, and sends data when it is through: that may be when the
// client has got its slot.
func shakeHands(conn net.Conn, data string) net.Conn {
	secure := tls.Client(conn, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
	go func() { _, _ = io.WriteString(secure, data) }()
	return secure
}

// Wherever tcplock stands, ten clients go through two slots, first come, first served, and
// each of them can talk to the service as long as it has its slot. It is so as well when a
// reload comes between.
func TestPlaces(t *testing.T) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			svc := newService(t, nil)
			addr := freeAddr(t)
			config := func(lock string) []byte {
				return withCertificate(t, adapt(t, global(fmt.Sprintf("layer4 {\n%s {\n"+p.server+"\n}\n}", addr, lock, svc.addr))))
			}
			if err := tryLoadJSON(t, config("tcplock 2")); err != nil {
				t.Fatal(err)
			}
			leakCheck(t)
			l := newLine(svc, addr, 2)
			l.come = func(t *testing.T, i int) net.Conn { return p.come(t, addr, number(i)) }
			l.join(t, 7)
			for i := range 4 {
				l.leave(t, i)
				l.talk(t)
			}
			if err := tryLoadJSON(t, config("tcplock 2 {\nwait_timeout 1h\n}")); err != nil {
				t.Fatal(err)
			}
			l.join(t, 3)
			l.talk(t)
			l.finish(t)
			if _, most, total := svc.counts(); most != 2 || total != 10 {
				t.Errorf("the service had %d connections at most and %d in all, expected 2 and 10", most, total)
			}
		})
	}
}

// Two servers share a lock by its name, whether the second says nothing else or the same
// as the first. Clients that come to one and to the other stand in one line.
func TestLockSharedByServers(t *testing.T) {
	for _, second := range []string{"", "linger 0\nwait_timeout 1h"} {
		t.Run(fmt.Sprintf("%q", second), func(t *testing.T) {
			svc := newService(t, nil)
			addrs := []string{freeAddr(t), freeAddr(t)}
			load(t, global(fmt.Sprintf("layer4 {\n%s {\nroute {\ntcplock {\nname shared\nlinger 0\nwait_timeout 1h\n}\nproxy %s\n}\n}\n%s {\nroute {\ntcplock {\nname shared\n%s\n}\nproxy %s\n}\n}\n}",
				addrs[0], svc.addr, addrs[1], second, svc.addr)))
			leakCheck(t)
			l := newLine(svc, "", 1)
			l.lock = "shared"
			l.come = func(t *testing.T, i int) net.Conn { return plainly(t, addrs[i%2], number(i)) }
			l.join(t, 10)
			for i := range 10 {
				l.talk(t)
				l.leave(t, i)
			}
		})
	}
}

// A connection goes through one lock, and then through another one: it has its slot of the
// first while it waits for the second. At the service there is never more than one.
func TestTwoLocksOnOneWay(t *testing.T) {
	svc := newService(t, nil)
	addr := lockServer(t, "tcplock 3 {\nname outer\nlinger 0\n}\ntcplock {\nname inner\nlinger 0\n}", svc.addr)
	leakCheck(t)
	for i := range 5 {
		plainly(t, addr, number(i))
		inLine(t, "inner", 1, min(i, 2))
		inLine(t, "outer", min(i+1, 3), max(0, i-2))
	}
	for i := range 5 {
		conn := svc.next(t)
		expect(t, conn, number(i))
		inLine(t, "inner", 1, min(2, 4-i))
		inLine(t, "outer", min(3, 5-i), max(0, 2-i))
		svc.leave(conn)
	}
	inLine(t, "inner", 0, 0)
	inLine(t, "outer", 0, 0)
	if _, most, _ := svc.counts(); most != 1 {
		t.Errorf("the service had %d connections at most, expected 1", most)
	}
}

// A connection that has a slot of a lock and comes to the same lock again would wait for
// itself. It is closed, and the log says why; the lock is not wedged by that.
func TestSameLockTwiceOnOneWay(t *testing.T) {
	for name, route := range map[string]string{
		"in the same route":   "tcplock 2 {\nname same\n}\ntcplock {\nname same\n}\nproxy %s",
		"in subroute":         "tcplock {\nname same\nlinger 0\n}\nsubroute {\nroute {\ntcplock {\nname same\n}\nproxy %s\n}\n}",
		"with one in between": "tcplock 3 {\nname same\n}\ntcplock 3 {\nname between\n}\ntcplock {\nname same\n}\nproxy %s",
	} {
		t.Run(name, func(t *testing.T) {
			svc := newService(t, echo)
			option, logged := logFile(t)
			twice, once := freeAddr(t), freeAddr(t)
			load(t, global(fmt.Sprintf(option+"\nlayer4 {\n%s {\nroute {\n"+route+"\n}\n}\n%s {\nroute {\ntcplock {\nname same\n}\nproxy %s\n}\n}\n}",
				twice, svc.addr, once, svc.addr)))
			expectClosed(t, dial(t, twice))
			logged(t, "found a second tcplock of lock same on one connection's way")
			leakCheck(t)
			for range 5 {
				expectClosed(t, dial(t, twice))
			}
			inLine(t, "same", 0, 0)
			expectServed(t, once)
			if _, _, total := svc.counts(); total != 1 {
				t.Errorf("%d connections reached the service, expected the one that comes to the lock once", total)
			}
		})
	}
}

// Who finds the main service taken goes to a spare one, behind a lock of its own with a
// line of its own. Neither service ever has more than one connection.
func TestOverflowLock(t *testing.T) {
	svc, spare := newService(t, nil), newService(t, nil)
	addr := lockServer(t, fmt.Sprintf("tcplock {\nname main\nlinger 0\nmax_waiting 0\nrefuse {\ntcplock {\nname overflow\nlinger 0\n}\nproxy %s\n}\n}", spare.addr), svc.addr)
	leakCheck(t)
	main, overflow := newLine(svc, addr, 1), newLine(spare, addr, 1)
	main.lock, overflow.lock = "main", "overflow"
	main.join(t, 1)
	overflow.join(t, 5)
	main.talk(t)
	overflow.talk(t)
	main.leave(t, 0)
	main.join(t, 1)
	overflow.join(t, 1)
	for i := range 6 {
		overflow.talk(t)
		overflow.leave(t, i)
	}
	main.talk(t)
	main.finish(t)
}

// Nothing after tcplock takes the connection, which only shows when it is there. It is
// closed, the log says why, and the slot is given back.
func TestNobodyTakesConnection(t *testing.T) {
	svc := newService(t, echo)
	option, logged := logFile(t)
	addr := freeAddr(t)
	load(t, global(fmt.Sprintf(option+"\nlayer4 {\n%s {\nroute {\ntcplock\nsubroute {\n@number regexp [0-9]+ 3\nroute @number {\nproxy %s\n}\n}\n}\n}\n}", addr, svc.addr)))
	expectClosed(t, plainly(t, addr, "no number"))
	logged(t, "tcplock must be followed, in the same route, by a handler that uses the connection up")
	leakCheck(t)
	for range 5 {
		expectClosed(t, plainly(t, addr, "no number"))
		inLine(t, "default", 0, 0)
	}
	conn := plainly(t, addr, number(7))
	expect(t, conn, number(7))
}

// logFile is an option that sends Caddy's errors to a file, and a function that waits for
// one of them.
func logFile(t *testing.T) (option string, logged func(t *testing.T, want string)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log")
	return fmt.Sprintf("log {\noutput file %s\nlevel ERROR\n}", file), func(t *testing.T, want string) {
		t.Helper()
		eventually(t, "the log says: "+want, func() bool {
			text, _ := os.ReadFile(file)
			return strings.Contains(string(text), want)
		})
	}
}

// Where a lock would not hold, or would stop others, the config is refused, and says why.
// (The plainest cases are in testdata/adapt.)
func TestPlacesRefused(t *testing.T) {
	const (
		udp         = "tcplock cannot stand on a UDP server"
		tee         = "tcplock cannot stand in a tee branch"
		notTerminal = "tcplock must be followed, in the same route, by a handler that uses the connection up"
	)
	for _, refused := range []struct{ name, server, want string }{
		{"a name that nobody defines", "%s {\nroute {\ntcplock {\nname nobody\n}\necho\n}\n}", "lock nobody: no handler of this config says what it is"},
		{"one of two addresses is UDP", "%[1]s udp/%[1]s {\nroute {\ntcplock\necho\n}\n}", udp},
		{"in subroute on UDP", "udp/%s {\nroute {\nsubroute {\nroute {\ntcplock\necho\n}\n}\n}\n}", udp},
		{"in tee on UDP", "udp/%s {\nroute {\ntee {\ntcplock\necho\n}\necho\n}\n}", udp},
		{"in subroute in tee", "%s {\nroute {\ntee {\nsubroute {\nroute {\ntcplock\necho\n}\n}\n}\necho\n}\n}", tee},
		{"before tls alone", "%s {\nroute {\ntcplock\ntls\n}\n}", notTerminal},
		{"before another tcplock alone", "%s {\nroute {\ntcplock {\nname a\n}\ntcplock {\nname b\n}\n}\n}", notTerminal},
		{"before tee alone", "%s {\nroute {\ntcplock\ntee {\necho\n}\n}\n}", notTerminal},
		{"at the end of subroute", "%s {\nroute {\nsubroute {\nroute {\ntcplock\n}\n}\necho\n}\n}", notTerminal},
		{"at the end of refuse", "%s {\nroute {\ntcplock {\nname a\nrefuse {\ntcplock {\nname b\n}\n}\n}\necho\n}\n}", notTerminal},
	} {
		t.Run(refused.name, func(t *testing.T) {
			addr := freeAddr(t)
			err := tryLoad(t, global("layer4 {\n"+fmt.Sprintf(refused.server, addr)+"\n}"))
			if err == nil || !strings.Contains(err.Error(), refused.want) {
				t.Errorf("found %v, expected an error with %s", err, refused.want)
			}
			if conn, err := net.Dial("tcp", addr); err == nil {
				conn.Close()
				t.Error("a server listens that should have been refused")
			}
			if n := tcplock.Locks(); n != 0 {
				t.Errorf("there are %d locks, expected none", n)
			}
		})
	}
}

// withCertificate adds a self-made certificate for localhost to a config.
func withCertificate(t *testing.T, cfg []byte) []byte {
	t.Helper()
	cert, key := localhostCertificate(t)
	return withKeyPair(t, cfg, cert, key)
}

// localhostCertificate makes a certificate for localhost and its key, both as PEM.
func localhostCertificate(t *testing.T) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "localhost"}, // curl wants one
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

// withKeyPair adds a certificate and its key to a config.
func withKeyPair(t *testing.T, cfg, certPEM, keyPEM []byte) []byte {
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
