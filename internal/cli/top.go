package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/gdamore/tcell/v2"
	"golang.org/x/term"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/clock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

func topCommand() command {
	interval, once := time.Second, false
	return command{
		use:   "top [--interval <duration>] [--once]",
		short: "Shows the locks of the running Caddy live",
		long: `
Shows all locks live in the terminal. Keys pause and resume a lock, kick its
connections and restart its service; ? lists them. If Caddy does not answer, top
says so and goes on asking.

With --once, or if the output is not a terminal, top prints the table of status.`,
		flags: func(c *call) {
			c.Flags().Func("interval", "`duration` between two updates (default 1s)",
				opts.One(&interval, positive).Value)
			c.Flags().BoolVar(&once, "once", false, "print the state once, and end")
		},
		run: func(c *call) error {
			c.client.answerWithin = topAnswer
			if once || !term.IsTerminal(int(os.Stdout.Fd())) {
				return printTop(c, interval, once)
			}
			tcell.SetEncodingFallback(tcell.EncodingFallbackASCII)
			screen, err := tcell.NewScreen()
			if err == nil {
				err = screen.Init()
			}
			if err != nil {
				return fmt.Errorf("found no terminal that top can use, expected one, or --once: %w", err)
			}
			defer screen.Fini()
			c.client.warn = nil // the screen shows the warning
			inASCII(screen)
			return watch(c, screen, interval)
		},
	}
}

const (
	topAnswer  = 3 * time.Second // the longest wait for an answer
	topWaiters = 200             // how many waiters of each lock top asks for
)

// printTop prints the table of status, once or at each interval.
func printTop(c *call, interval time.Duration, once bool) error {
	for {
		locks, err := c.client.locks(c.Context(), 0)
		if once && err != nil {
			return err
		}
		lines := locksTable(locks, nil).lines(0, 0, nil)
		if err != nil {
			lines = []textLine{{{text: err.Error()}}}
		}
		if !once {
			lines = slices.Concat([]textLine{{{text: time.Now().Format(time.DateTime)}}}, lines, []textLine{nil})
		}
		if err := printLines(c.OutOrStdout(), lines); err != nil || once {
			return err
		}
		if !clock.Sleep(c.Context(), interval) {
			return nil
		}
	}
}

// watch shows the locks on the screen until the user quits.
func watch(c *call, screen tcell.Screen, interval time.Duration) error {
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer stop()

	events, quit := make(chan tcell.Event), make(chan struct{})
	defer close(quit)
	go screen.ChannelEvents(events, quit)

	t := &top{address: c.client.address, interval: interval}
	var waiting []*order // in the order of the keys
	orders, answers := make(chan *order), make(chan func())
	asking.Go(func() { askForTop(ctx, c.client, t, orders, answers) })
	for {
		draw(screen, t)
		var next *order
		var ready chan *order
		if len(waiting) > 0 {
			next, ready = waiting[0], orders
		}
		select {
		case <-ctx.Done():
			return nil
		case ready <- next:
			waiting = waiting[1:]
		case show := <-answers:
			show()
		case event := <-events:
			switch event := event.(type) {
			case nil: // the terminal is gone
				return nil
			case *tcell.EventResize:
				screen.Sync()
			case *tcell.EventKey:
				order, quit := t.key(event.Key(), event.Rune())
				if quit {
					return nil
				}
				if order != nil {
					waiting = append(waiting, order)
				}
			}
		}
	}
}

// askForTop polls Caddy at each interval and after each order, and sends the orders to Caddy. It
// sends functions that put the answers into t.
func askForTop(ctx context.Context, client *adminClient, t *top, orders <-chan *order, answers chan<- func()) {
	show := func(answer func()) {
		select {
		case answers <- answer:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		locks, err := client.locks(ctx, topWaiters)
		p := polled{time.Now(), locks, err, client.warning()}
		show(func() { t.update(p) })
		select {
		case <-time.After(t.interval):
		case o := <-orders:
			note := span{text: o.lock + ": " + o.said}
			if err := client.ask(ctx, o.lock, o.verb, o.query, new(status.Lock)); err != nil {
				note = span{o.lock + ": " + err.Error(), styleAlarm}
			}
			show(func() { t.note = note })
		case <-ctx.Done():
		}
	}
}

// inASCII sets what a terminal without Unicode shows for the view's other characters.
func inASCII(screen tcell.Screen) {
	screen.RegisterRuneFallback('▸', ">")
	screen.RegisterRuneFallback('…', "~")
	for i, r := range []rune(levels) {
		screen.RegisterRuneFallback(r, strconv.Itoa(i))
	}
}

// draw puts the view on the screen.
func draw(screen tcell.Screen, t *top) {
	screen.Clear()
	width, height := screen.Size()
	for y, l := range t.view(width, height) {
		x := 0
		for _, s := range l {
			style, rest := tcellStyle(s.style, screen.Colors() > 0), s.text
			for n := 0; rest != "" && x < width; x += n {
				if rest, n = screen.Put(x, y, rest, style); n == 0 {
					break
				}
			}
		}
	}
	screen.Show()
}

// tcellStyle returns how a style looks on the terminal. Without colours (the terminal has none,
// or NO_COLOR is set) it uses bold and reverse only: tcell would pick colours of its own.
func tcellStyle(s style, colours bool) tcell.Style {
	is, selected := tcell.StyleDefault, s&styleSelected != 0
	switch {
	case s&styleFaint != 0:
		is = is.Dim(!selected)
	case s&styleStrong != 0:
		is = is.Bold(true)
	case s&styleNotice != 0:
		is = is.Foreground(tcell.ColorOlive).Bold(!colours)
	case s&styleAlarm != 0:
		is = is.Foreground(tcell.ColorMaroon).Bold(true)
	}
	if !colours {
		is = is.Foreground(tcell.ColorDefault)
	}
	return is.Reverse(selected)
}
