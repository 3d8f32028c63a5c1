package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/gdamore/tcell/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

func topCommand() *cobra.Command {
	var (
		interval = caddy.Duration(time.Second)
		once     bool
	)
	return adminCommand{
		use:   "top [--interval <duration>] [--once]",
		short: "Shows the locks of the running Caddy live",
		long: `
Shows all locks live in the terminal. Keys pause and resume a lock, kick its
connections and restart its service; ? lists them. If Caddy does not answer, top
says so and goes on asking.

With --once, or if the output is not a terminal, top prints the table of status.`,
		flags: func(fs *pflag.FlagSet) {
			durationFlag(fs, &interval, "interval", "`duration` between two looks at the locks (default 1s)")
			fs.BoolVar(&once, "once", false, "look once, print the result, and end")
		},
		run: func(c *call) error {
			c.client.answerWithin = topAnswer
			if once || !term.IsTerminal(int(os.Stdout.Fd())) {
				return printTop(c, time.Duration(interval), once)
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
			return watch(c, screen, time.Duration(interval))
		},
	}.cobra()
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
		lines := locksLines(locks)
		if err != nil {
			lines = []textLine{{{text: err.Error()}}}
		}
		if !once {
			lines = append([]textLine{{{text: time.Now().Format(time.DateTime)}}}, append(lines, nil)...)
		}
		if err := printLines(c.OutOrStdout(), lines); err != nil || once {
			return err
		}
		select {
		case <-c.Context().Done():
			return nil
		case <-time.After(interval):
		}
	}
}

// watch shows the locks on the screen until the user quits.
func watch(c *call, screen tcell.Screen, interval time.Duration) error {
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer stop()

	events, quit := make(chan tcell.Event), make(chan struct{})
	defer close(quit)
	go screen.ChannelEvents(events, quit)

	polls, again := make(chan polled), make(chan struct{}, 1)
	helpers.Go(func() {
		for ctx.Err() == nil {
			locks, err := c.client.locks(ctx, topWaiters)
			select {
			case polls <- polled{time.Now(), locks, err, c.client.answers.warning(c.client.address)}:
			case <-ctx.Done():
			}
			select {
			case <-time.After(interval):
			case <-again:
			case <-ctx.Done():
			}
		}
	})

	t := &top{address: c.client.address, interval: interval}
	done := make(chan span)
	var orders []*order // in the order of the keys; the first is being carried out, then the next
	carryOutFirst := func() {
		if len(orders) > 0 {
			first := orders[0]
			helpers.Go(func() { carryOut(ctx, c.client, first, done) })
		}
	}
	for {
		draw(screen, t)
		select {
		case <-ctx.Done():
			return nil
		case p := <-polls:
			t.update(p)
		case note := <-done:
			t.note, orders = note, orders[1:]
			carryOutFirst()
			select {
			case again <- struct{}{}:
			default:
			}
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
				if order == nil {
					continue
				}
				if orders = append(orders, order); len(orders) == 1 {
					carryOutFirst()
				}
			}
		}
	}
}

// carryOut sends an order to Caddy, and sends the result to done.
func carryOut(ctx context.Context, client *adminClient, o *order, done chan<- span) {
	_, err := client.verb(ctx, o.lock, o.verb, o.query)
	note := span{text: o.lock + ": " + o.said}
	if err != nil {
		note = span{o.lock + ": " + err.Error(), styleAlarm}
	}
	select {
	case done <- note:
	case <-ctx.Done():
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
	switch s &^ styleSelected {
	case styleFaint:
		is = is.Dim(!selected)
	case styleStrong:
		is = is.Bold(true)
	case styleNotice:
		is = is.Foreground(tcell.ColorOlive).Bold(!colours)
	case styleAlarm:
		is = is.Foreground(tcell.ColorMaroon).Bold(true)
	}
	if !colours {
		is = is.Foreground(tcell.ColorDefault)
	}
	return is.Reverse(selected)
}
