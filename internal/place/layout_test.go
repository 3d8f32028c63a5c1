package place

import (
	"slices"
	"testing"
)

// One listen address is one word, however a config writes it.
func TestAddressesOf(t *testing.T) {
	t.Setenv("TCPLOCK_TEST_PORT", "9000")
	for _, c := range []struct {
		listen []string
		want   []string
	}{
		{[]string{":9000", "tcp/:9000", "0.0.0.0:9000", "[::]:9000", "tcp4/:{env.TCPLOCK_TEST_PORT}"}, []string{":9000"}},
		{[]string{"127.0.0.1:9000", "tcp/127.0.0.1:9000"}, []string{"127.0.0.1:9000"}},
		{[]string{"[::1]:9000"}, []string{"[::1]:9000"}},
		{[]string{"localhost:9000-9002"}, []string{"localhost:9000", "localhost:9001", "localhost:9002"}},
		{[]string{"unix//run/a", "unix//run/a|0222"}, []string{"unix//run/a"}},
		{[]string{"fd/3"}, []string{"fd/3"}},
		{[]string{":x"}, nil},
	} {
		got := slices.Compact(addressesOf(c.listen))
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: found %v, expected %v", c.listen, got, c.want)
		}
	}
}
