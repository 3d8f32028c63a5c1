// Command caddy is Caddy with caddy-l4 and tcplock built in.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/seed-4dbef00f/caddy-tcplock"
)

func main() {
	caddycmd.Main()
}
