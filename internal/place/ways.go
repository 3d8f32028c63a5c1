package place

import (
	"errors"
	"fmt"
	"slices"
)

// The way out of a lock is how its connections get to the service. Either tcplock itself connects, to the
// address of the option to, or to the slot's worker if no handler stands behind tcplock in its route. Or a
// handler behind tcplock connects. All connections of a lock have the same way out.

// ErrNotTerminal refuses a lock without a way out.
var ErrNotTerminal = errors.New("tcplock must be followed, in the same route, by a handler that uses the connection up (proxy, echo ...), " +
	"or have the address of the service (to, workers): otherwise its slot would be given back before the service is reached")

// settings are those of a lock that concern its way out.
type settings struct {
	to, workers bool
	check       bool   // worker_check
	connects    string // an option of use only if tcplock connects; empty: none
}

// settingsIn returns the settings of a tcplock handler, or false if it only joins a lock.
func settingsIn(handler map[string]any) (s settings, defines bool) {
	_, named := handler["name"]
	defines = !named
	for option, value := range handler {
		list, isList := value.([]any)
		if value == "" || isList && len(list) == 0 { // as if the option were not there
			continue
		}
		switch option {
		case "handler", "name", "priority", "refuse":
			continue
		case "to":
			s.to = true
		case "workers":
			s.workers = true
		case "worker_check":
			s.check = true
		case "connect_timeout", "proxy_protocol":
			s.connects = option
		}
		defines = true
	}
	return s, defines
}

// end is a lock with what follows it in its route.
type end struct {
	lock, where string
	own         *settings // nil: the handler only joins the lock
	behind      []stop
}

// stop is a handler behind a lock.
type stop struct{ handler, lock string } // lock: the name if it is a tcplock

// noteEnd notes a tcplock handler and those that follow it.
func (y *Layout) noteEnd(lock string, handler any, at spot, behind []any) {
	e := end{lock: lock, where: at.where}
	if s, defines := settingsIn(handler.(map[string]any)); defines {
		e.own = &s
		y.settings[lock] = s
	}
	for _, v := range behind {
		handler, _ := v.(map[string]any)
		name, _ := handler["handler"].(string)
		lock, _ := lockIn(v)
		e.behind = append(e.behind, stop{name, lock})
	}
	y.ends = append(y.ends, e)
}

// Connects reports whether tcplock itself connects a lock's connections to the service.
func (y *Layout) Connects(lock string) bool {
	s := y.settings[lock]
	return s.to || s.workers && slices.ContainsFunc(y.ends, func(e end) bool { return e.lock == lock && len(e.behind) == 0 })
}

// userOf returns the handler that uses a connection up, "" if none does.
func (y *Layout) userOf(behind []stop) (handler string) {
	for i, h := range behind {
		if !slices.Contains(passOn, h.handler) || i == len(behind)-1 && y.mayConnect(h.lock) {
			return h.handler
		}
	}
	return ""
}

// mayConnect reports whether tcplock connects if no handler follows this lock. While a handler only joins
// the lock, and the one that defines it has not been read, it may.
func (y *Layout) mayConnect(lock string) bool {
	s, known := y.settings[lock]
	return lock != "" && (!known || s.to || s.workers)
}

// checkWays refuses a lock without a way out, or with two. It says nothing about a lock until the settings
// of the lock have been read.
func (y *Layout) checkWays() error {
	for _, e := range y.ends {
		s, known := y.settings[e.lock]
		if e.own != nil {
			s = *e.own // if another handler contradicts it, the error says so later
		}
		if known {
			if err := y.checkEnd(e, s); err != nil {
				return fmt.Errorf("lock %s (%s): %w", e.lock, e.where, err)
			}
		}
	}
	return nil
}

const forTLS = "; for TLS to the service leave this option out, and have proxy connect: proxy with a block upstream <address> { tls }"

func (y *Layout) checkEnd(e end, s settings) error {
	user := y.userOf(e.behind)
	switch {
	case s.to && len(e.behind) > 0:
		return fmt.Errorf("to: found the handler %s behind tcplock, expected none: tcplock itself connects to the service%s", e.behind[0].handler, forTLS)
	case s.to:
	case s.workers && len(e.behind) > 0 && user == "":
		return fmt.Errorf("workers: found only %s behind tcplock, expected no handler (tcplock itself connects to the workers), or one that uses the connection up (proxy)",
			e.behind[0].handler)
	case s.workers && len(e.behind) == 0:
		if s.check {
			return errors.New("worker_check: found no handler behind tcplock, expected this option only with one: tcplock itself connects to the workers, and that is the check")
		}
	case user == "":
		return ErrNotTerminal
	case s.workers && y.Connects(e.lock):
		return fmt.Errorf("workers: found the handler %s behind tcplock, and none behind another tcplock of this lock, expected the same behind both: "+
			"either tcplock itself connects to the workers, or a handler does", user)
	case s.connects != "":
		return fmt.Errorf("%s: found the handler %s behind tcplock, expected none: the option is of use only if tcplock itself connects to the service", s.connects, user)
	}
	return nil
}
