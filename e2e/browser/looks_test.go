package browser

import (
	"fmt"
	"testing"

	"github.com/chromedp/chromedp"
)

// On a phone a reader need not scroll sideways.
func TestPhone(t *testing.T) {
	c := newCaddy(t, "testdata/Caddyfile", troubled...)
	trouble(t, c)
	p := open(t, c.url())
	for _, width := range []int64{390, 320} {
		p.do(t, chromedp.EmulateViewport(width, 844))
		p.until(t, fmt.Sprintf("all as wide as a screen of %d at most", width), `document.querySelectorAll('.picture svg').length === 4
			&& document.documentElement.scrollWidth <= innerWidth
			&& [...document.querySelectorAll('.picture text, .picture rect, h2, dd, dt, li, p, .key, .scale')].every(e => e.getBoundingClientRect().right <= innerWidth)`)
	}
}

// contrasts is a JavaScript function. It returns the least contrast of a text to its background,
// as WCAG 2 computes it, and that text.
const contrasts = `(() => {
	const light = colour => {
		const [r, g, b] = colour.match(/[\d.]+/g).map(Number).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const clear = colour => colour === 'none' || /, 0\)$/.test(colour);
	const behind = e => {
		for (let at = e; at; at = at.parentElement) {
			const box = at.localName === 'g' && at.querySelector('rect');
			const colour = box ? getComputedStyle(box).fill : getComputedStyle(at).backgroundColor;
			if (!clear(colour)) return colour;
		}
	};
	const found = [...document.querySelectorAll('body *')]
		.filter(e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.localName !== 'title' && e.localName !== 'option')
		.map(e => {
			const style = getComputedStyle(e);
			const [a, b] = [light(e instanceof SVGElement ? style.fill : style.color), light(behind(e))].sort((a, b) => b - a);
			return { contrast: (a + 0.05) / (b + 0.05), text: e.className.baseVal ?? e.className, what: e.textContent };
		}).sort((a, b) => a.contrast - b.contrast);
	return { count: found.length, ...found[0] };
})()`

// In light and dark, each text has enough contrast to its background. If the user prefers reduced
// motion, nothing moves.
func TestColours(t *testing.T) {
	c := newCaddy(t, "testdata/Caddyfile", troubled...)
	trouble(t, c)
	p := open(t, c.url())
	p.do(t, chromedp.EmulateViewport(1200, 4000))
	p.until(t, "all pictures", `document.querySelectorAll('.picture svg').length === 4`)
	backgrounds := make(map[string]string)
	for _, scheme := range []string{"light", "dark"} {
		p.media(t, "prefers-color-scheme", scheme)
		backgrounds[scheme] = eval[string](t, p, `getComputedStyle(document.body).backgroundColor`)
		least := eval[struct {
			Count      int
			Contrast   float64
			Text, What string
		}](t, p, contrasts)
		t.Logf("%s: %d texts, the least contrast is %.1f (%s: %s)", scheme, least.Count, least.Contrast, least.Text, least.What)
		if least.Count < 50 || least.Contrast < 4.5 {
			t.Errorf("%s: found a contrast of %.1f (%s: %s) among %d texts, expected 4.5 at least", scheme, least.Contrast, least.Text, least.What, least.Count)
		}
	}
	if backgrounds["light"] == backgrounds["dark"] {
		t.Errorf("the background is %s in light and dark", backgrounds["light"])
	}
	const moving = `[...document.querySelectorAll('body *')].some(e => getComputedStyle(e).transitionDuration !== '0s' || getComputedStyle(e).animationName !== 'none')`
	if !eval[bool](t, p, moving) {
		t.Error("found nothing that moves, expected something without the preference")
	}
	p.media(t, "prefers-reduced-motion", "reduce")
	if eval[bool](t, p, moving) {
		t.Error("found something that moves for a user that prefers reduced motion, expected nothing")
	}
}

// Without locks the page says that there are none, and how to get one.
func TestNoLocks(t *testing.T) {
	c := newCaddy(t, "testdata/nothing.Caddyfile")
	p := open(t, c.url())
	p.until(t, "that there are none", `document.querySelector('#none').checkVisibility() && document.querySelector('#sum').textContent.includes('0 locks')`)
}
