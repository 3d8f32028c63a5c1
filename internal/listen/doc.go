// Package listen has what Caddy's listeners need until that is mended upstream. Where caddy-l4 has
// stopped accepting connections, it accepts them. And it refuses an address on which another process
// listens already.
package listen
