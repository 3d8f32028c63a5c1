//go:build unix

package proc

import (
	"os"
	"strconv"
	"sync"
	"syscall"
)

// hideSockets hides from all processes to come the sockets that Caddy was started with, such as that of a
// systemd .socket unit: a service that kept one open would keep the port, too. Once is enough, since Go
// passes on nothing that it has opened itself.
var hideSockets = sync.OnceFunc(func() {
	files, _ := os.ReadDir("/dev/fd")
	for _, file := range files {
		fd, err := strconv.Atoi(file.Name())
		if err != nil || fd <= syscall.Stderr { // the log may go to a socket
			continue
		}
		var stat syscall.Stat_t
		if syscall.Fstat(fd, &stat) == nil && stat.Mode&syscall.S_IFMT == syscall.S_IFSOCK {
			syscall.CloseOnExec(fd)
		}
	}
})
