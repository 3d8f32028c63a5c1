package tcplock

import (
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/inside"
)

// SetListenFor sets how long a probe listens, for the time of a test.
func SetListenFor(d time.Duration) (restore func()) { return inside.Process.SetListenFor(d) }
