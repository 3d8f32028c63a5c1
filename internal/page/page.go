// Package page serves the status page: all locks in a browser, live.
package page

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/version"
)

func init() {
	caddy.RegisterModule(new(Page))
	httpcaddyfile.RegisterHandlerDirective("tcplock_status", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		p := new(Page)
		return p, p.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("tcplock_status", httpcaddyfile.Before, "respond")
}

// Page is an HTTP handler that serves a page with all locks of this Caddy: which
// connections hold a slot, which wait, for how long, and what has happened. It is read-only.
//
// The page is one document. It requests nothing but a stream of updates, from the same URL. A
// request that accepts text/event-stream gets the stream, one that accepts application/json
// gets the locks as they are now, and any other one gets the page. So the page may be at any
// path. A person who may see it sees the addresses of the clients, so put authentication in
// front of it.
type Page struct {
	hub *hub
	ctx context.Context // done when the streams must end
	end context.CancelFunc
}

// CaddyModule returns the Caddy module information.
func (*Page) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.tcplock_status",
		New: func() caddy.Module { return new(Page) },
	}
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	tcplock_status [<matcher>]
func (*Page) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	return opts.None(d)
}

// Provision implements caddy.Provisioner.
func (p *Page) Provision(ctx caddy.Context) error {
	value, _, _ := hubs.LoadOrNew(hubKey, func() (caddy.Destructor, error) { return newHub(), nil })
	p.hub = value.(*hub)
	p.ctx, p.end = context.WithCancel(ctx)
	// A server that shuts down waits for its requests. The config may end only after that, so
	// its context would end the streams too late.
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterOnShutdown(p.end)
	}
	return nil
}

// Cleanup implements caddy.CleanerUpper.
func (p *Page) Cleanup() error {
	if p.hub != nil {
		p.end()
		_, _ = hubs.Delete(hubKey)
	}
	return nil
}

const (
	typePage   = "text/html"
	typeJSON   = "application/json"
	typeStream = "text/event-stream"
)

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	h := w.Header()
	h.Set("Content-Security-Policy", pagePolicy) // replaces a policy of the site
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		return caddyhttp.Error(http.StatusMethodNotAllowed, fmt.Errorf("found method %s, expected GET or HEAD", r.Method))
	}
	accept := strings.Join(r.Header.Values("Accept"), ",")
	offered := []string{typePage, typeJSON, typeStream}
	asked := preferred(accept, offered)
	if asked == "" {
		return caddyhttp.Error(http.StatusNotAcceptable, fmt.Errorf("found Accept %q, expected one of %s", accept, strings.Join(offered, ", ")))
	}
	h.Set("Content-Type", asked)
	switch asked {
	case typeStream:
		h.Set("X-Accel-Buffering", "no") // so that an nginx in front does not buffer it
		if r.Method == http.MethodHead {
			return nil
		}
		return p.stream(w, r)
	case typeJSON:
		raw, err := lock.StatusJSON(lock.Listed{Waiters: lock.DefaultWaiters})
		if err != nil {
			return err
		}
		_, err = w.Write(raw)
		return err
	default:
		h.Set("Content-Type", typePage+"; charset=utf-8")
		h.Set("Content-Length", strconv.Itoa(len(page)))
		_, err := w.Write(page)
		return err
	}
}

// preferred returns the offered media type that the Accept header prefers, the first of equals. It
// returns "" if the header accepts none of them.
func preferred(accept string, offered []string) (best string) {
	if accept == "" {
		return offered[0]
	}
	most := 0.0
	for _, media := range offered {
		liked, exact := 0.0, -1
		for wanted := range strings.SplitSeq(accept, ",") {
			pattern, params, err := mime.ParseMediaType(wanted)
			prefix, wild := strings.CutSuffix(pattern, "*")
			if err != nil || pattern != media && pattern != "*/*" && !(wild && strings.HasPrefix(media, prefix)) || len(prefix) <= exact {
				continue // the most exact pattern decides
			}
			liked, exact = 1, len(prefix)
			if q, found := params["q"]; found {
				liked, _ = strconv.ParseFloat(q, 64)
			}
		}
		if liked > most {
			best, most = media, liked
		}
	}
	return best
}

// The page is assembled once. Its policy allows only its own script and style, so injected code
// does nothing.
var (
	//go:embed page.html
	pageFrame string
	//go:embed page.css
	pageStyle string
	//go:embed page.js
	pageScript string
	//go:embed card.js
	pageCard string
	//go:embed picture.js
	pagePicture string
	//go:embed plot.js
	pagePlot string

	page, pagePolicy = assemblePage()
	pageHash         = sourceHash(string(page))
)

func assemblePage() (page []byte, policy string) {
	v := version.Get()
	script := pagePlot + pagePicture + pageCard + pageScript
	page = []byte(strings.NewReplacer(
		"<style></style>", "<style>"+pageStyle+"</style>",
		"<script></script>", `<script type="module">`+script+"</script>",
		"<footer></footer>", "<footer>"+html.EscapeString(fmt.Sprintf("tcplock %s, Caddy %s, caddy-l4 %s", v.Tcplock, v.Caddy, v.CaddyL4))+"</footer>",
	).Replace(pageFrame))
	return page, strings.Join([]string{
		"default-src 'none'",
		"script-src " + sourceHash(script),
		"style-src " + sourceHash(pageStyle),
		"connect-src 'self'",
		"img-src data:",
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors 'none'",
		"require-trusted-types-for 'script'",
		"trusted-types 'none'",
	}, "; ")
}

// sourceHash returns the hash by which a policy allows a script or style.
func sourceHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Page)(nil)
	_ caddy.CleanerUpper          = (*Page)(nil)
	_ caddyfile.Unmarshaler       = (*Page)(nil)
	_ caddyhttp.MiddlewareHandler = (*Page)(nil)
)
