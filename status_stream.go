package tcplock

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// The stream: server-sent events that tell a viewer what is new on the board. Nothing
// is kept for a viewer: one that is slow gets, when it is ready for more, how things are
// by then. These are the events, each with an object of JSON:
//
//	history  {"n":1234,"locks":{"<name>":{"waiting":[...],...}}}  once, at the beginning
//	locks    {"now":"...","names":[...],"locks":[...]}            those that have changed
//	sample   {"n":1235,"locks":{"<name>":[...]}}                  every second

const (
	// A viewer that takes no byte for so long has gone, or may come again.
	viewerPatience = 15 * time.Second
	pieceSize      = 16 << 10
)

// patientWriter writes piece by piece, each with a deadline of its own.
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

// stream sends what is new to one viewer until it goes, or the config does.
func (p *StatusPage) stream(w http.ResponseWriter, r *http.Request) error {
	v := p.board.enter()
	if v == nil { // the page asks again
		return caddyhttp.Error(http.StatusServiceUnavailable, fmt.Errorf("found %d viewers, expected no more", mostViewers))
	}
	defer p.board.leave()
	out := http.NewResponseController(w)
	defer func() { _ = out.SetWriteDeadline(time.Time{}) }() // the connection may serve other requests
	// What is large goes around the buffer. It is there for the small parts between, and
	// because encode decides by the size of the first write whether to compress.
	message := bufio.NewWriter(patientWriter{w, out})
	// How long to wait before the next attempt if the stream ends, as at a reload.
	_, _ = message.WriteString("retry: 250\n\n")
	for {
		parts, more := p.board.news(v)
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
