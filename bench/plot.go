package main

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Colours that colour-blind readers can tell apart. The background is set, since a page may be dark.
var (
	background = color.RGBA{0xff, 0xff, 0xff, 0xff}
	ink        = color.RGBA{0x22, 0x22, 0x22, 0xff}
	colours    = []color.Color{
		color.RGBA{0x00, 0x72, 0xb2, 0xff},
		color.RGBA{0xe6, 0x9f, 0x00, 0xff},
		color.RGBA{0x00, 0x9e, 0x73, 0xff},
		color.RGBA{0xcc, 0x79, 0xa7, 0xff},
		color.RGBA{0xd5, 0x5e, 0x00, 0xff},
		color.RGBA{0x56, 0xb4, 0xe9, 0xff},
	}
)

// bars describes one picture: one quantity of several results.
type bars struct {
	file, title, unit string
	quantity          int
	results           []string // their names
	legend            []string // their names in the legend
}

// plot draws the results into SVG files in a directory.
func (f findings) plot(s *settings) error {
	if err := os.MkdirAll(s.svg, 0o755); err != nil {
		return err
	}
	var memory, waiters []string
	for _, n := range s.memory {
		memory, waiters = append(memory, fmt.Sprintf("memory-%d", n)), append(waiters, fmt.Sprintf("waiters: %d", n))
	}
	for _, b := range []bars{
		{"short.svg", "Short connections, 32 clients", "connections a second (more is better)", 0,
			[]string{"short-1", "short-4", "short-16"}, []string{"1 slot", "4 slots", "16 slots"}},
		{"memory.svg", "Memory for each waiter", "KiB (less is better)", 0, memory, waiters},
		{"bulk.svg", "One connection that carries as much as it can", "GiB/s (more is better)", 0,
			[]string{"bulk-down", "bulk-up"}, []string{"to the client", "to the service"}},
		{"costs.svg", "System calls for each short connection", "system calls (less is better)", 0,
			[]string{"costs-1", "costs-16"}, []string{"1 slot", "16 slots"}},
		{"locks.svg", "Short connections, spread over many locks", "connections a second (more is better)", 0,
			[]string{"locks"}, []string{"1 slot each"}},
	} {
		if err := f.drawBars(s.svg, b); err != nil {
			return err
		}
	}
	return f.drawHandOff(filepath.Join(s.svg, "handoff.svg"), s.lines)
}

func newPlot(title string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.BackgroundColor = title, background
	p.Title.Padding = vg.Points(8)
	for _, style := range []*draw.TextStyle{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle,
		&p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		style.Color, style.Font.Variant = ink, "Sans"
		style.Font.Size = font.Length(11)
	}
	p.Title.TextStyle.Font.Size = font.Length(13)
	p.Legend.Padding = vg.Points(3)
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{0xdd}, color.Gray{0xdd}
	p.Add(grid)
	return p
}

// drawBars draws a bar for each target, the first target on top, with its figure.
func (f findings) drawBars(dir string, b bars) error {
	p := newPlot(b.title)
	p.X.Label.Text, p.X.Min = b.unit, 0
	const width = vg.Length(11)
	var names []string
	for i, name := range b.results {
		r := f.named(name)
		if r == nil {
			continue
		}
		values, labels := plotter.Values{}, plotter.XYLabels{}
		offset := width * vg.Length(float64(len(b.results)-1)/2-float64(i))
		names = names[:0]
		for _, s := range slices.Backward(r.Targets) {
			if s.Target == direct.name { // its bar would leave little room for the others
				continue
			}
			names = append(names, s.Target)
			labels.XYs = append(labels.XYs, plotter.XY{X: s.median(b.quantity), Y: float64(len(values))})
			labels.Labels = append(labels.Labels, " "+number(s.median(b.quantity)))
			values = append(values, s.median(b.quantity))
		}
		chart, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		chart.Horizontal, chart.Offset = true, offset
		chart.Color, chart.LineStyle.Width = colours[i%len(colours)], 0
		figures, err := plotter.NewLabels(labels)
		if err != nil {
			return err
		}
		for i := range figures.TextStyle {
			figures.TextStyle[i].Color, figures.TextStyle[i].YAlign = ink, draw.YCenter
			figures.TextStyle[i].Font.Variant, figures.TextStyle[i].Font.Size = "Sans", font.Length(9)
		}
		figures.Offset.Y = offset
		p.Add(chart, figures)
		if len(b.results) > 1 {
			p.Legend.Add(b.legend[i], chart)
		}
	}
	if len(names) == 0 {
		return nil
	}
	p.NominalY(names...)
	p.Y.Min, p.Y.Max = -0.6, float64(len(names))-0.4
	p.X.Max *= 1.1 // room for the figure after the longest bar
	if len(b.results) > 1 {
		p.X.Max *= 1.25 // room for the legend
	}
	p.X.Tick.Marker = plot.TickerFunc(func(from, to float64) []plot.Tick {
		ticks := plot.DefaultTicks{}.Ticks(from, to)
		for i, tick := range ticks {
			if tick.Label != "" {
				ticks[i].Label = strconv.FormatFloat(tick.Value, 'g', 6, 64)
			}
		}
		return ticks
	})
	height := width*vg.Length(len(names)*(len(b.results)+1)) + 80
	return save(p, height, filepath.Join(dir, b.file))
}

// drawHandOff draws the gap of each target over the length of the line.
func (f findings) drawHandOff(file string, lines []int) error {
	first := f.named(fmt.Sprintf("handoff-%d", lines[0]))
	if first == nil {
		return nil
	}
	p := newPlot("Hand-off: the service closes, the service accepts the next")
	p.X.Label.Text, p.Y.Label.Text = "waiters", "microseconds (less is better)"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	var lengths, gaps plot.ConstantTicks
	for _, n := range lines {
		lengths = append(lengths, plot.Tick{Value: float64(n), Label: strconv.Itoa(n)})
	}
	for _, us := range []int{10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000} {
		gaps = append(gaps, plot.Tick{Value: float64(us), Label: strconv.Itoa(us)})
	}
	p.X.Tick.Marker, p.Y.Tick.Marker = lengths, gaps
	p.Legend.Top = true
	for i, s := range first.Targets {
		for quantity, name := range []string{"p50", "p99"} {
			var points plotter.XYs
			for _, n := range lines {
				if r := f.named(fmt.Sprintf("handoff-%d", n)); r != nil {
					points = append(points, plotter.XY{X: float64(n), Y: r.of(s.Target).median(quantity)})
				}
			}
			line, marks, err := plotter.NewLinePoints(points)
			if err != nil {
				return err
			}
			line.Color, line.Width = colours[i%len(colours)], vg.Points(2)
			marks.Color, marks.Shape = line.Color, draw.CircleGlyph{}
			if quantity == 1 {
				line.Dashes = []vg.Length{vg.Points(5), vg.Points(3)}
			}
			p.Add(line, marks)
			p.Legend.Add(s.Target+", "+name, line, marks)
		}
	}
	p.X.Max *= 50 // room for the legend
	return save(p, 420, file)
}

// save writes a picture. Few readers have the font that the layout is for, but most have a font with
// the same widths.
func save(p *plot.Plot, height vg.Length, file string) error {
	picture := vgsvg.New(580, height)
	page := draw.New(picture)
	page.SetColor(background)
	page.Fill(page.Rectangle.Path())
	p.Draw(draw.Crop(page, 10, -10, 8, -12))
	var svg bytes.Buffer
	if _, err := picture.WriteTo(&svg); err != nil {
		return err
	}
	text := bytes.ReplaceAll(svg.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;"))
	return os.WriteFile(file, text, 0o644)
}
