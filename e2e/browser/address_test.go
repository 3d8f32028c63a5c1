package browser

import "testing"

// The page's path begins like the address of another host. The page still opens its stream at its
// own host.
func TestAddress(t *testing.T) {
	c := newCaddy(t, quickstart, "LOCK", "SERVICE")
	p := open(t, c.url()+"/evil.example/#x")
	p.until(t, "live", says("#live", "live"))
}
