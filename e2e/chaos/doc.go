// Package chaos holds a test, built with the tag chaos and on Linux only: a real Caddy under random
// clients, services and operators, and what has to be true all the same. README.md says more.
package chaos
