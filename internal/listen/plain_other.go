//go:build !unix

package listen

import (
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

// Guard does nothing: on this system descriptors do not run out, and Caddy's configs share their
// sockets.
type Guard struct{}

// Watch returns a guard.
func Watch(map[string]*layer4.Server, *zap.Logger) *Guard { return nil }

// Stopping does nothing.
func (*Guard) Stopping() {}

// Stop does nothing.
func (*Guard) Stop() {}
