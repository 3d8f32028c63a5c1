package browser

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// page is a tab of a browser, and the errors that it has reported.
type page struct {
	ctx    context.Context
	origin string

	mu         sync.Mutex
	requests   []string
	complaints []string

	shown []time.Duration // how long each call of soon has waited
}

// open starts a Chromium for this test and opens the page. At the end of the test it checks that
// the page has requested nothing but itself, and has reported no error and no violation of a policy.
func open(t *testing.T, address string) *page {
	t.Helper()
	path, err := exec.LookPath("chromium")
	switch {
	case err == nil:
	case os.Getenv("TCPLOCK_REQUIRE_SERVICES") == "1":
		t.Fatal("found no chromium, expected it: TCPLOCK_REQUIRE_SERVICES is 1")
	default:
		t.Skip("needs chromium")
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), chromedp.ExecPath(path),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("hide-scrollbars", true))
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	p := &page{ctx: ctx}
	p.do(t) // which starts it
	if err := chromedp.Listen(ctx, p.hear); err != nil {
		t.Fatal(err)
	}
	command(t, p, log.Enable, cdp.Empty{})
	command(t, p, network.Enable, network.EnableParams{})
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	p.origin = parsed.Scheme + "://" + parsed.Host
	t.Cleanup(func() { p.check(t) })
	p.do(t, chromedp.EmulateViewport(1200, 900), chromedp.Navigate(address))
	p.until(t, "the page is live", `document.querySelector('#live').textContent === 'live'`)
	return p
}

// hear records the requests and the errors of the page.
func (p *page) hear(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	complain := func(what ...any) { p.complaints = append(p.complaints, fmt.Sprint(what...)) }
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		p.requests = append(p.requests, e.Request.URL)
	case *runtime.EventConsoleAPICalled:
		for _, arg := range e.Args {
			complain("console: ", string(arg.Value), arg.Description)
		}
	case *runtime.EventExceptionThrown:
		complain("exception: ", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
	case *log.EventEntryAdded:
		complain("log: ", e.Entry.Source, " ", e.Entry.Text, " ", e.Entry.URL)
	}
}

func (p *page) check(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.requests) < 2 {
		t.Errorf("found requests %q, expected those for the page and its stream", p.requests)
	}
	for _, request := range p.requests {
		asked, err := url.Parse(request)
		if err != nil || asked.Scheme+"://"+asked.Host != p.origin && asked.Scheme != "data" {
			t.Errorf("the page has asked for %s, expected nothing but %s", request, p.origin)
		}
	}
	for _, complaint := range p.complaints {
		t.Errorf("the page complains: %s", complaint)
	}
	slices.Sort(p.shown)
	if n := len(p.shown); n > 0 && p.shown[n/2] > time.Second { // a machine may stall once
		t.Errorf("shown after %s, expected within a second", p.shown)
	}
}

// forgive drops the errors so far that contain this text.
func (p *page) forgive(about string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var others []string
	for _, complaint := range p.complaints {
		if !strings.Contains(complaint, about) {
			others = append(others, complaint)
		}
	}
	p.complaints = others
}

func (p *page) do(t *testing.T, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(p.ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// command sends the browser a command of its protocol.
func command[P, R any](t *testing.T, p *page, c cdp.Command[P, R], params P) R {
	t.Helper()
	result, err := chromedp.Call(p.ctx, c, params)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// eval returns the value of a JavaScript expression.
func eval[T any](t *testing.T, p *page, expression string) T {
	t.Helper()
	value, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// until waits until a JavaScript expression is true, and returns how long that took.
func (p *page) until(t *testing.T, what, expression string) time.Duration {
	t.Helper()
	start := time.Now()
	for !eval[bool](t, p, "Boolean("+expression+")") {
		if time.Since(start) > patience {
			t.Fatalf("the page does not show: %s\n%s", what, eval[string](t, p, "document.body.innerText"))
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

// soon is until, within a second: check looks at that.
func (p *page) soon(t *testing.T, what, expression string) {
	t.Helper()
	took := p.until(t, what, expression)
	t.Logf("%s: shown after %s", what, took.Round(time.Millisecond))
	p.shown = append(p.shown, took)
}

// media makes the browser's user prefer something, such as a dark colour scheme.
func (p *page) media(t *testing.T, feature, value string) {
	t.Helper()
	command(t, p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: feature, Value: value}}})
}
