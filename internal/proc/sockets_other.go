//go:build !unix

package proc

// hideSockets does nothing: processes inherit no sockets here.
func hideSockets() {}
