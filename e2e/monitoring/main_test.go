// Package monitoring_test has Prometheus scrape tcplock.
package monitoring_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }
