package record

import (
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// Many refusals, for two reasons in turn, become two events with a count. The older event is still
// in the list.
func TestRefusalsByTurns(t *testing.T) {
	var r Record
	r.KeepEvent(status.Event{Event: status.EventTimeout, Slot: 1})
	for range 200 {
		r.KeepEvent(status.Event{Event: status.EventRefused, Reason: status.RefusedFull})
		r.KeepEvent(status.Event{Event: status.EventRefused, Reason: status.WaitTimeout})
	}
	events := r.Events()
	if len(events) != 3 || events[0].Reason != status.WaitTimeout || events[0].Count != 200 || events[1].Count != 200 || events[2].Event != status.EventTimeout {
		t.Errorf("found %+v, expected a timeout, and each reason 200 times", events)
	}
	r.KeepEvent(status.Event{Event: status.EventPaused})
	r.KeepEvent(status.Event{Event: status.EventRefused, Reason: status.RefusedFull})
	if events = r.Events(); len(events) != 4 || events[0].Count != 201 || events[1].Event != status.EventPaused {
		t.Errorf("found %+v, expected the 201st refusal after the pause", events)
	}
}

// Events merge if they come within seconds of each other. A field that is not the same in all of
// them is left out: no single client is named for all.
func TestEventsMerge(t *testing.T) {
	var r Record
	at := time.Now()
	note := func(after time.Duration, client string) status.Event {
		at = at.Add(after)
		r.KeepEvent(status.Event{Time: at, Event: status.EventRefused, Reason: status.RefusedFull, Client: client})
		return r.Events()[0]
	}
	note(0, "192.0.2.1:1")
	if e := note(9*time.Second, "192.0.2.1:1"); e.Count != 2 || e.Client != "192.0.2.1:1" {
		t.Errorf("found %+v, expected 2 refusals of the client", e)
	}
	if e := note(9*time.Second, "192.0.2.2:1"); e.Count != 3 || e.Client != "" || e.Time != at {
		t.Errorf("found %+v, expected 3 refusals of no one client, at the time of the last", e)
	}
	if e := note(10*time.Second, "192.0.2.3:1"); e.Count != 0 || e.Client != "192.0.2.3:1" {
		t.Errorf("found %+v, expected one refusal: the others were 10 seconds ago", e)
	}
}

// Refusals that come too seldom to merge do not push a rarer event out of the list.
func TestRareEventStays(t *testing.T) {
	var r Record
	at := time.Now()
	r.KeepEvent(status.Event{Time: at, Event: status.EventTimeout})
	for range 3 * keptEvents {
		at = at.Add(time.Minute)
		r.KeepEvent(status.Event{Time: at, Event: status.EventRefused})
	}
	events := r.Events()
	if last := events[len(events)-1]; len(events) != keptEvents || last.Event != status.EventTimeout || events[0].Time != at {
		t.Errorf("found %d events, the oldest %+v, expected %d with the timeout still there", len(events), last, keptEvents)
	}
}
