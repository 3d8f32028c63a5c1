package tcplock

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// options is the table of what a Caddyfile block may contain. Arity, duplicates,
// surplus blocks and unknown names are checked here, once for all of them; every error
// carries file and line, what was found and what was expected.
type options map[string]option

// option says how to read one line of a block.
type option struct {
	min, max int  // how many arguments
	repeat   bool // may stand more than once
	set      func(d *caddyfile.Dispenser, args []string) error

	// own, instead of the above but repeat, reads the line and its block itself,
	// with the dispenser on the option's name; its errors know where.
	own func(d *caddyfile.Dispenser) error
}

// one is an option with one argument, which must not be empty.
func one[T any](dst *T, parse func(string) (T, error)) option {
	return option{min: 1, max: 1, set: func(_ *caddyfile.Dispenser, args []string) error {
		// Most likely a variable that is not set.
		if args[0] == "" {
			return errors.New("found an empty argument, expected a value")
		}
		value, err := parse(args[0])
		*dst = value
		return err
	}}
}

// optional is an option with one argument whose absence means something else than
// its zero value.
func optional[T any](dst **T, parse func(string) (T, error)) option {
	value := new(T)
	opt := one(value, parse)
	set := opt.set
	opt.set = func(d *caddyfile.Dispenser, args []string) error {
		*dst = value
		return set(d, args)
	}
	return opt
}

// flag is an option without arguments.
func flag(dst *bool) option {
	return option{set: func(*caddyfile.Dispenser, []string) error {
		*dst = true
		return nil
	}}
}

// parse reads the block d stands in front of, if there is one. Names that are not in
// the table go to other, if there is one, with the dispenser on the name. check, if
// not nil, is called after each option.
func (o options) parse(d *caddyfile.Dispenser, check func() error, other func(*caddyfile.Dispenser) error) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		opt, known := o[name]
		if !known && other != nil {
			if err := other(d); err != nil {
				return err
			}
			continue
		}
		if !known {
			return d.Errf("found option %q, expected one of %s", name, o)
		}
		if seen[name] && !opt.repeat {
			return d.Errf("%s: found a second time, expected once", name)
		}
		seen[name] = true
		if err := opt.read(d, name); err != nil {
			return err
		}
		if check == nil {
			continue
		}
		if err := check(); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

// String lists the names in the table.
func (o options) String() string {
	return strings.Join(slices.Sorted(maps.Keys(o)), ", ")
}

func (opt option) read(d *caddyfile.Dispenser, name string) error {
	if opt.own != nil {
		return opt.own(d)
	}
	args := d.RemainingArgs()
	if len(args) < opt.min || len(args) > opt.max {
		return d.Errf("%s: found %s, expected %s", name, count(len(args), "argument"), opt.arity())
	}
	if err := opt.set(d, args); err != nil {
		return d.Errf("%s: %w", name, err)
	}
	if opensBlock(d) {
		return d.Errf("%s: found a block, expected none", name)
	}
	return nil
}

// opensBlock reports whether a block follows on the line whose arguments d has read.
func opensBlock(d *caddyfile.Dispenser) bool {
	next := *d
	return !next.NextLine() && next.Next()
}

func (opt option) arity() string {
	if opt.min == opt.max {
		return strconv.Itoa(opt.min)
	}
	return fmt.Sprintf("%d to %d", opt.min, opt.max)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// The values options take. Their errors say what was found and what is expected.

func text(s string) (string, error) { return s, nil }

func number(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("found %q, expected a whole number of at most %d", s, math.MaxInt)
	}
	if err != nil {
		return 0, fmt.Errorf("found %q, expected a whole number", s)
	}
	return n, nil
}

func duration(s string) (caddy.Duration, error) {
	d, err := caddy.ParseDuration(s)
	if err == nil {
		return caddy.Duration(d), nil
	}
	if d, err := caddy.ParseDuration(s + "s"); err == nil && d > 0 {
		return 0, fmt.Errorf("found %q without a unit, expected a duration such as %ss", s, s)
	}
	return 0, fmt.Errorf("found %q, expected a duration such as 500ms, 20s or 1h", s)
}
