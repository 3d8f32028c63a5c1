// Package operators_test is about what operators use: the admin API, the status page, the command line, metrics and logs.
package operators_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }
