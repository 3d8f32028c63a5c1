// Package pool_test is about the workers and processes behind the slots.
package pool_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.BothWays(m) }
