package plan

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
)

var update = flag.Bool("update", false, "rewrite docs/capacity.svg")

// The picture of docs/capacity.md is what the plan says. It is made by
//
//	go test -run TestCapacityPicture -update ./internal/plan
func TestCapacityPicture(t *testing.T) {
	const file = "../../docs/capacity.svg"
	picture := capacityPicture()
	if *update {
		if err := os.WriteFile(file, []byte(picture), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := os.ReadFile(file); err != nil || string(found) != picture {
		t.Errorf("error %v; if it is not that, %s is out of date, see how it is made", err, file)
	}
}

// capacityPicture plots waits by how busy the slots are. Its colours are those of
// docs/picture, with a background of its own.
func capacityPicture() string {
	const (
		width, height            = 720, 420
		left, right, top, bottom = 64, 690, 24, 360
		most                     = 10 // hold times
	)
	x := func(busy float64) float64 { return left + busy*(right-left) }
	y := func(wait float64) float64 { return bottom - wait/most*(bottom-top) }
	var svg strings.Builder
	put := func(format string, args ...any) { fmt.Fprintf(&svg, format+"\n", args...) }
	text := func(x, y float64, anchor, color, text string) {
		put(`<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`, x, y, anchor, color, text)
	}
	put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="14px" role="img">`, width, height)
	put(`<title>Time in line, by how busy the slots are, for 1, 4 and 16 slots</title>`)
	put(`<rect width="100%%" height="100%%" rx="8" fill="#16181d"/>`)
	for tick := 0; tick <= 10; tick += 2 {
		busy, wait := float64(tick)/10, float64(tick)
		put(`<path d="M%.1f %dV%dM%d %.1fH%d" stroke="#2d333b"/>`, x(busy), bottom, top, left, y(wait), right)
		text(x(busy), bottom+20, "middle", "#d5d9e0", fmt.Sprintf("%d%%", tick*10))
		text(left-10, y(wait)+5, "end", "#d5d9e0", fmt.Sprint(tick))
	}
	text((left+right)/2, bottom+44, "middle", "#d5d9e0", "how much of their time the slots are busy")
	put(`<text transform="translate(22 %d) rotate(-90)" text-anchor="middle" fill="#d5d9e0">time in line, in hold times</text>`, (top+bottom)/2)
	for i, curve := range []struct {
		slots int
		color string
	}{{1, "#f47067"}, {4, "#e3b341"}, {16, "#6cb6ff"}} {
		var mean, p99 strings.Builder
		point := func(path *strings.Builder, busy, wait float64) {
			if wait <= most {
				fmt.Fprintf(path, "%c%.1f %.1f", "ML"[min(path.Len(), 1)], x(busy), y(wait))
			}
		}
		for n := 1; n < 400; n++ {
			busy := float64(n) / 400
			line := Plan{Rate: busy * float64(curve.slots), Hold: 1, Variability: 1, Slots: curve.slots, MaxWaiting: Unlimited}.Forecast().Line
			point(&mean, busy, line.MeanWaitSeconds)
			point(&p99, busy, line.P99WaitSeconds)
		}
		put(`<path d="%s" fill="none" stroke="%s" stroke-width="2.5"/>`, mean.String(), curve.color)
		put(`<path d="%s" fill="none" stroke="%s" stroke-width="1.5" stroke-dasharray="5 4"/>`, p99.String(), curve.color)
		text(left+16, float64(top+24+22*i), "start", curve.color, opts.Count(curve.slots, "slot"))
	}
	text(left+16, top+24+22*3, "start", "#d5d9e0", "solid: on average")
	text(left+16, top+24+22*4, "start", "#d5d9e0", "dashed: 99 of 100 at most")
	put(`</svg>`)
	return svg.String()
}
