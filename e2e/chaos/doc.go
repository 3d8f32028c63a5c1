// Package chaos has a test that runs a real Caddy with random clients, services and operators, and
// checks what must hold nevertheless. It is built with the tag chaos, on Linux only. README.md says
// more.
package chaos
