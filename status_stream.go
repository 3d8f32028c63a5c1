package tcplock

import (
	"bytes"
	"fmt"
	"net/http"
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

	largeMessage = 256 << 10
)

// stream sends what is new to one viewer until it goes, or the config does.
func (p *StatusPage) stream(w http.ResponseWriter, r *http.Request) error {
	v := p.board.enter()
	if v == nil { // the page asks again
		return caddyhttp.Error(http.StatusServiceUnavailable, fmt.Errorf("found %d viewers, expected no more", mostViewers))
	}
	defer p.board.leave()
	out := http.NewResponseController(w)
	defer func() { _ = out.SetWriteDeadline(time.Time{}) }() // the connection may serve other requests
	var message bytes.Buffer
	// How long to wait before the next attempt if the stream ends, as at a reload.
	message.WriteString("retry: 250\n\n")
	for {
		more := p.board.news(v, &message)
		for message.Len() > 0 {
			_ = out.SetWriteDeadline(time.Now().Add(viewerPatience))
			if _, err := w.Write(message.Next(pieceSize)); err != nil {
				return nil // the viewer has gone
			}
		}
		if err := out.Flush(); err != nil {
			return nil
		}
		if message.Cap() > largeMessage {
			message = bytes.Buffer{} // the first one may be large, those after it seldom are
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
