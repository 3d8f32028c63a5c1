// Package processes_test has tcplock run servers written in Python.
package processes_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }
