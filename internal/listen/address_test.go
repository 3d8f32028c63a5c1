package listen

import (
	"net"
	"testing"
)

// A service's address is where a lock listens, or is not.
func TestReaches(t *testing.T) {
	own := "203.0.113.1" // no machine's
	all, _ := net.InterfaceAddrs()
	for _, addr := range all {
		if network, ok := addr.(*net.IPNet); ok && network.IP.To4() != nil && !network.IP.IsLoopback() {
			own = network.IP.String()
		}
	}
	for _, test := range []struct {
		address, listener string
		want              bool
	}{
		{"127.0.0.1:9000", ":9000", true},
		{"localhost:9000", ":9000", true},
		{":9000", ":9000", true},
		{"[::1]:9000", ":9000", true},
		{"127.0.0.1:9000", "127.0.0.1:9000", true},
		{own + ":9000", ":9000", own != "203.0.113.1"},
		{"127.0.0.1:9001", ":9000", false},
		{"127.0.0.1:9000", "127.0.0.2:9000", false},
		{"203.0.113.7:9000", ":9000", false},
		{"no-such-name.invalid:9000", ":9000", false},
		{"unix//run/app.sock", ":9000", false},
		{"localhost:9000-9002", ":9000", false},
	} {
		if got := Reaches(test.address, test.listener); got != test.want {
			t.Errorf("%s at %s: found %t, expected %t", test.address, test.listener, got, test.want)
		}
	}
}
