package relay

import (
	"net"

	"github.com/pires/go-proxyproto"
)

// Header returns the header of the PROXY protocol, of version 1 or 2, that tells the service from which address
// the client came, and to which. If these are not IP addresses, such as those of a unix socket, the client may
// have chosen its own. Then the header says only that the connection is proxied.
func Header(version byte, from, to net.Addr) []byte {
	if _, ok := from.(*net.TCPAddr); !ok {
		from, to = nil, nil
	}
	header, err := proxyproto.HeaderProxyFromAddrs(version, from, to).Format()
	if err != nil {
		header, _ = proxyproto.HeaderProxyFromAddrs(version, nil, nil).Format()
	}
	return header
}
