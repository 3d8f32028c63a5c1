//go:build unix && !linux && !solaris

package listen

import "net"

const inherits = false // Go sets keep-alive on each connection

func setKeepAlive(*net.TCPListener, net.KeepAliveConfig) error { return nil }
