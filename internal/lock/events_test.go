package lock_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/caddyserver/caddy/v2"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// hearer is a handler of Caddy's events app that records the names of the events it gets before
// the context is done.
type hearer struct{ names []string }

func (h *hearer) Handle(ctx context.Context, e caddy.Event) error {
	if ctx.Err() == nil {
		h.names = append(h.names, e.Name())
	}
	return nil
}

// A connection may come before its config has started. Until then the events app takes
// subscriptions into a map without a mutex, so the lock must not ask it.
func TestEventsBeforeStart(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		heard := new(hearer)
		if err := s.events.On("", heard); err != nil {
			t.Fatal(err)
		}
		s.load(lock.Settings{})
		s.config.Unstart()
		s.lock.Pause(0)
		synctest.Wait()
		if len(heard.names) > 0 {
			t.Errorf("found events %v, expected none before the start", heard.names)
		}
		s.config.Start()
		s.lock.Resume()
		synctest.Wait()
		if len(heard.names) != 1 {
			t.Errorf("found events %v, expected the one after the start", heard.names)
		}
		if events := s.lock.Record().Events(); len(events) != 2 {
			t.Errorf("found %v, expected the status to have both", events)
		}
	})
}

// The last events of a lock, when its hooks and processes have been ended, still reach their
// handlers, and the end of the process waits for them.
func TestEventsAtShutdown(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		heard := new(hearer)
		if err := s.events.On("", heard); err != nil {
			t.Fatal(err)
		}
		s.load(lock.Settings{})
		s.lock.Cancel()
		s.lock.PublishProcess(status.Event{Event: status.EventStopped, Reason: status.StopAsked})
		s.lock.ShutDown()
		if len(heard.names) != 1 || heard.names[0] != "tcplock_stopped" {
			t.Errorf("found events %v, expected tcplock_stopped", heard.names)
		}
	})
}

// Connections that are refused at the end of the process, and have no line of their own in the
// log, are counted there before the process ends.
func TestRefusalsAtShutdown(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{})
		told := 0
		s.lock.Refusals().Tell = func(n int) { told += n }
		for range lock.RefusalsLogged + 7 {
			s.lock.Refusals().Allow()
		}
		s.lock.ShutDown()
		if told != 7 {
			t.Errorf("found %d counted, expected 7", told)
		}
	})
}

// A worker that is down is up again when its process has been replaced, and an event says so.
func TestEventWorkerUpAfterRestart(t *testing.T) {
	playHooks(t, func(s *hookStage) {
		s.load(lock.Settings{Workers: []string{"127.0.0.1:1"}})
		w := s.lock.Pool().Worker(1)
		w.Restored() // nothing new
		w.Down(errStep)
		w.Down(errStep)
		w.Restored()
		var told []string
		for _, e := range s.lock.Record().Events() {
			told = append(told, e.Event)
		}
		if want := []string{status.EventWorkerUp, status.EventWorkerDown}; !slices.Equal(told, want) {
			t.Errorf("found %v, expected %v, the newest first", told, want)
		}
	})
}
