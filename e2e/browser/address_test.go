package browser

import "testing"

// The page at an address whose path begins as another host's would. Its stream comes from
// where the page has come from.
func TestAddress(t *testing.T) {
	c := newCaddy(t, quickstart, "LOCK", "SERVICE")
	p := open(t, c.url()+"/evil.example/#x")
	p.until(t, "live", says("#live", "live"))
}
