package tcplock

import "testing"

// Two kinds of refusals in turn, any number of them, and the restart before them is there
// still.
func TestEventsFloodOfTwoKinds(t *testing.T) {
	var r record
	r.noteEvent(Event{Event: processRestarted})
	for range 1000 {
		r.noteEvent(Event{Event: eventRefused, Reason: refusedFull})
		r.noteEvent(Event{Event: eventRefused, Reason: waitTimeout})
	}
	r.noteEvent(Event{Event: eventIdle})
	events := r.lastEvents()
	if len(events) != 4 || events[0].Event != eventIdle || events[1].Reason != waitTimeout || events[1].Count != 1000 ||
		events[2].Reason != refusedFull || events[2].Count != 1000 || events[3].Event != processRestarted || events[3].Count != 0 {
		t.Errorf("found %+v, expected idle, a thousand each of two refusals, and the restart", events)
	}
}
