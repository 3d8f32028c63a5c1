package main

import (
	"encoding/xml"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// The picture's measures in pixels, and its colours. The first eight are the terminal's.
const (
	fontSize   = 14
	cellWidth  = 8.4
	cellHeight = 19
	margin     = 16
	background = "#16181d"
	foreground = "#d5d9e0"
	dim        = "#7d8590"
)

var palette = [...]string{"#16181d", "#f47067", "#8ddb8c", "#e3b341", "#6cb6ff", "#dcbdfb", "#76e3ea", "#d5d9e0"}

// look is how a cell looks.
type look struct {
	color               string // foreground if empty
	bold, dim, reversed bool
}

// apply changes the look as a terminal's SGR sequence says. There are only those that
// top uses.
func (l look) apply(parameters string) look {
	for p := range strings.SplitSeq(parameters, ";") {
		n, _ := strconv.Atoi(p)
		switch {
		case n == 0:
			l = look{}
		case n == 1:
			l.bold = true
		case n == 2:
			l.dim = true
		case n == 7:
			l.reversed = true
		case n == 22:
			l.bold, l.dim = false, false
		case n == 27:
			l.reversed = false
		case n >= 30 && n <= 37:
			l.color = palette[n-30]
		case n == 39:
			l.color = ""
		}
	}
	return l
}

var sgr = regexp.MustCompile(`\x1b\[([0-9;]*)m|\x1b\([B0]|\x0f`)

// svg draws a screen of so many columns, as tmux captures it with its escape sequences.
func svg(screen string, columns int) string {
	lines := strings.Split(strings.TrimRight(screen, "\n"), "\n")
	width, height := float64(columns)*cellWidth+2*margin, len(lines)*cellHeight+2*margin
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace" font-size="%dpx">`+"\n", width, height, fontSize)
	fmt.Fprintf(&out, `<rect width="100%%" height="100%%" rx="8" fill="%s"/>`+"\n", background)
	var l look
	for y, line := range lines {
		x := 0
		put := func(text string) {
			out.WriteString(l.draw(text, x, y))
			x += len([]rune(text))
		}
		for {
			at := sgr.FindStringSubmatchIndex(line)
			if at == nil {
				put(line)
				break
			}
			put(line[:at[0]])
			if at[2] >= 0 {
				l = l.apply(line[at[2]:at[3]])
			}
			line = line[at[1]:]
		}
	}
	out.WriteString("</svg>\n")
	return out.String()
}

// draw draws text that looks one way from a cell on. Its length is given, since the font
// may be another one where the picture is seen.
func (l look) draw(text string, x, y int) string {
	trimmed := strings.TrimLeft(text, " ")
	if !l.reversed {
		x += len(text) - len(trimmed)
		text = strings.TrimRight(trimmed, " ")
	}
	if text == "" {
		return ""
	}
	cells := len([]rune(text))
	left, length := margin+float64(x)*cellWidth, float64(cells)*cellWidth
	ink, rect, weight := foreground, "", ""
	if l.color != "" {
		ink = l.color
	}
	if l.dim {
		ink = dim
	}
	if l.reversed {
		rect = fmt.Sprintf(`<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`, left, margin+y*cellHeight, length, cellHeight, ink)
		ink = background
	}
	if l.bold {
		weight = ` font-weight="bold"`
	}
	var escaped strings.Builder
	_ = xml.EscapeText(&escaped, []byte(text))
	return fmt.Sprintf(`%s<text x="%.1f" y="%d" textLength="%.1f" xml:space="preserve" fill="%s"%s>%s</text>`+"\n",
		rect, left, margin+(y+1)*cellHeight-5, length, ink, weight, escaped.String())
}
