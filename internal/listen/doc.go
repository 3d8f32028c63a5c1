// Package listen makes up for what Caddy's listeners lack. It accepts connections where caddy-l4
// has stopped accepting them, and it refuses an address on which another process listens already.
// It can go once both are solved upstream.
package listen
