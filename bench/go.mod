module github.com/seed-4dbef00f/caddy-tcplock/bench

go 1.26.0

require golang.org/x/sys v0.48.0 // indirect
