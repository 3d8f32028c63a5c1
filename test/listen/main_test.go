// Package listen_test is about the way in: the network keep/, Caddy's own listeners, and reloads.
package listen_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }
