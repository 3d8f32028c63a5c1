// Package line_test is about the line in front of a service: its order, its bounds, and the clients that leave it.
package line_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.BothWays(m) }
