package client

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// After its slot was released, a client that goes on sending is read from for 30 seconds, and a
// silent one for 5.
func TestDrainIsBounded(t *testing.T) {
	for _, test := range []struct {
		name  string
		pause time.Duration // between two bytes
		want  time.Duration
	}{
		{"drip", time.Second, 30 * time.Second},
		{"silent", time.Hour, 5 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				defer client.Close()
				c := &Conn{socket: server}
				c.Signs.serviceDone.Store(true)
				go func() {
					defer server.Close()
					start := time.Now()
					c.Discard()
					if took := time.Since(start); took != test.want {
						t.Errorf("found %s, expected %s", took, test.want)
					}
				}()
				for err := error(nil); err == nil; _, err = client.Write([]byte("x")) {
					time.Sleep(test.pause)
				}
			})
		})
	}
}
