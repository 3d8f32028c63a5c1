//go:build !unix

package tcplock

import (
	"context"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
)

// watchListeners has nothing to do here: descriptors do not run out.
func watchListeners(context.Context, map[string]*layer4.Server, *zap.Logger) {}
