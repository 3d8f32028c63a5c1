// Package ending_test is about how a connection ends, and when its slot is free for the next one.
package ending_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.BothWays(m) }
