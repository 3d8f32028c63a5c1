// Package security_test is about hostile clients, web pages, services and settings.
package security_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }
