// Package hooks_test is about hooks: when they run, what they do, and what happens if they
// fail.
package hooks_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.BothWays(m) }
