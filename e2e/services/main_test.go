// Package services_test puts tcplock in front of real services: LibreOffice, PostgreSQL, nginx, redis, a printer.
package services_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }
