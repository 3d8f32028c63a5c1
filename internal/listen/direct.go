package listen

// Take gets a connection that keep/ has accepted, and reports whether it has taken the connection over.
type Take func(*Conn) bool
