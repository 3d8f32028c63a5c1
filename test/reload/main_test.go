// Package reload_test is about what a reload keeps, and about the end of Caddy.
package reload_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.BothWays(m) }
