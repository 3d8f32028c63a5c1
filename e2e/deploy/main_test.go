// Package deploy_test runs the commands of docs/deploy.md as they stand there, and tries what they lead to.
package deploy_test

import (
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }
