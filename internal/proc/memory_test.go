package proc

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A hundred workers that check their memory share one list of processes, until it is treeAge old.
// If making a list fails, the next check tries again.
func TestProcessTreeIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parents, looks := map[int]int{2: 1, 3: 2, 4: 2, 5: 3, 6: 1, 7: 8, 8: 7}, 0
		var fails error
		tree := processTree{list: func() (map[int]int, error) { looks++; return parents, fails }}
		expect := func(looked int, want []int, of int) {
			t.Helper()
			got, err := tree.descendants(of)
			slices.Sort(got)
			if !slices.Equal(got, want) || (err == nil) != (want != nil) || looks != looked {
				t.Errorf("found %v, error %v, and %d looks, expected %v and %d", got, err, looks, want, looked)
			}
		}
		for range 100 {
			expect(1, []int{2, 3, 4, 5}, 2)
		}
		expect(1, []int{6}, 6)
		expect(1, []int{7, 8}, 7) // a cycle: pids were used again while the list was made
		expect(1, []int{9}, 9)
		time.Sleep(treeAge)
		expect(1, []int{3, 5}, 3)
		time.Sleep(time.Nanosecond)
		parents, fails = map[int]int{4: 3}, errors.New("not now")
		expect(2, nil, 3)
		fails = nil
		expect(3, []int{3, 4}, 3)
	})
}
