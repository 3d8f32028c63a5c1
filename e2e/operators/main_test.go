// Package operators_test uses tcplock as operators do, in a terminal and with curl.
package operators_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }
