module github.com/seed-4dbef00f/caddy-tcplock/bench

go 1.26.0
