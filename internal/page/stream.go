package page

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// The stream: server-sent events that bring a viewer the updates of the hub. The hub queues
// nothing for a viewer. A slow viewer gets the newest state when it can take more. These are
// the events, each with a JSON object:
//
//	history  {"n":1234,"locks":{"<name>":{"waiting":[...],...}}}  once, at the beginning
//	locks    {"now":"...","names":[...],"locks":[...]}            the locks that have changed
//	sample   {"n":1235,"locks":{"<name>":[...]}}                  every second

const (
	// A viewer that takes no byte for so long is dropped. The page connects again.
	viewerPatience = 15 * time.Second
	pieceSize      = 16 << 10
)

// patientWriter writes in pieces, and gives each piece a deadline of its own.
type patientWriter struct {
	to  io.Writer
	out *http.ResponseController
}

func (w patientWriter) Write(p []byte) (n int, err error) {
	for piece := range slices.Chunk(p, pieceSize) {
		_ = w.out.SetWriteDeadline(time.Now().Add(viewerPatience))
		written, err := w.to.Write(piece)
		n += written
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// stream sends updates to one viewer until it has gone or the config ends.
func (p *Page) stream(w http.ResponseWriter, r *http.Request) error {
	v := p.hub.enter()
	if v == nil { // the page tries again
		return caddyhttp.Error(http.StatusServiceUnavailable, fmt.Errorf("found %d viewers, expected no more", mostViewers))
	}
	defer p.hub.leave()
	out := http.NewResponseController(w)
	defer func() { _ = out.SetWriteDeadline(time.Time{}) }() // the connection may serve more requests
	// The buffer joins small parts; large ones go around it. It also makes the first write large
	// enough: encode decides by its size whether to compress.
	message := bufio.NewWriter(patientWriter{w, out})
	// How long a browser waits before it connects again, as after a reload.
	_, _ = message.WriteString("retry: 250\n\n")
	for {
		parts, more := p.hub.updates(v)
		for _, part := range parts {
			_, _ = message.Write(part) // Flush returns the first error
		}
		if message.Flush() != nil || out.Flush() != nil {
			return nil // the viewer has gone
		}
		select {
		case <-more:
		case <-r.Context().Done():
			return nil
		case <-p.ctx.Done():
			return nil
		}
	}
}
