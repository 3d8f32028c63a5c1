// Package opts reads the blocks of a Caddyfile: a table says which options a block may have, and
// what their values are. It checks arity, duplicates, surplus blocks and unknown names once for all
// blocks. Every error names file and line, and says what was found and what is expected.
package opts

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

// Table is the table of what a Caddyfile block may contain.
type Table map[string]Option

// Option says how to read one line of a block.
type Option struct {
	Min, Max int  // how many arguments
	Repeat   bool // may stand more than once
	Set      func(d *caddyfile.Dispenser, args []string) error

	// Instead of min, max and set: it reads the line and its block itself, with the dispenser on
	// the option's name. Its errors must say where.
	Own func(d *caddyfile.Dispenser) error
}

// One is an option with one argument, which must not be empty. parse reads it.
func One[T any](dst *T, parse func(string) (T, error)) Option {
	return Option{Min: 1, Max: 1, Set: func(_ *caddyfile.Dispenser, args []string) error {
		// Most likely a variable that is not set.
		if args[0] == "" {
			return errors.New("found an empty argument, expected a value")
		}
		value, err := parse(args[0])
		*dst = value
		return err
	}}
}

// Optional is one for an option that, when it is absent, means something other than its zero
// value.
func Optional[T any](dst **T, parse func(string) (T, error)) Option {
	value := new(T)
	opt := One(value, parse)
	set := opt.Set
	opt.Set = func(d *caddyfile.Dispenser, args []string) error {
		*dst = value
		return set(d, args)
	}
	return opt
}

// Value reads s as the option's only argument, for what is not in a Caddyfile, such as a flag of
// a command.
func (opt Option) Value(s string) error { return opt.Set(nil, []string{s}) }

// Flag is an option without arguments.
func Flag(dst *bool) Option {
	return Option{Set: func(*caddyfile.Dispenser, []string) error {
		*dst = true
		return nil
	}}
}

// Map is an option with a name and its value, which may stand once for each name.
func Map(dst *map[string]string) Option {
	return Option{Min: 2, Max: 2, Repeat: true, Set: func(_ *caddyfile.Dispenser, args []string) error {
		if _, ok := (*dst)[args[0]]; ok {
			return fmt.Errorf("found %s a second time, expected once", args[0])
		}
		if *dst == nil {
			*dst = make(map[string]string)
		}
		(*dst)[args[0]] = args[1]
		return nil
	}}
}

// Parse reads the block that follows d, if there is one. It calls check, if not nil, after each
// option. For names that are not in the table it calls other, if not nil, with the dispenser on the
// name.
func (o Table) Parse(d *caddyfile.Dispenser, check func() error, other func(*caddyfile.Dispenser) error) error {
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
		if seen[name] && !opt.Repeat {
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
func (o Table) String() string {
	return strings.Join(slices.Sorted(maps.Keys(o)), ", ")
}

func (opt Option) read(d *caddyfile.Dispenser, name string) error {
	if opt.Own != nil {
		return opt.Own(d)
	}
	args := d.RemainingArgs()
	if len(args) < opt.Min || len(args) > opt.Max {
		return d.Errf("%s: found %s, expected %s", name, Count(len(args), "argument"), opt.arity())
	}
	if err := opt.Set(d, args); err != nil {
		return d.Errf("%s: %w", name, err)
	}
	if opensBlock(d) {
		return d.Errf("%s: found a block, expected none", name)
	}
	return nil
}

// None refuses arguments and a block after the name that d is on.
func None(d *caddyfile.Dispenser) error { return Flag(new(bool)).read(d, d.Val()) }

// opensBlock reports whether a block follows on the line whose arguments d has read.
func opensBlock(d *caddyfile.Dispenser) bool {
	next := *d
	return !next.NextLine() && next.Next()
}

func (opt Option) arity() string {
	if opt.Min == opt.Max {
		return strconv.Itoa(opt.Min)
	}
	return fmt.Sprintf("%d to %d", opt.Min, opt.Max)
}

// Count is a number with a noun in the singular or plural.
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// The values of options. Their errors say what was found and what is expected.

// Text takes any value.
func Text(s string) (string, error) { return s, nil }

// Number reads a whole number.
func Number(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("found %q, expected a whole number of at most %d", s, math.MaxInt)
	}
	if err != nil {
		return 0, fmt.Errorf("found %q, expected a whole number", s)
	}
	return n, nil
}

// Duration reads a duration with its unit.
func Duration(s string) (caddy.Duration, error) {
	d, err := caddy.ParseDuration(s)
	if err == nil {
		return caddy.Duration(d), nil
	}
	if d, err := caddy.ParseDuration(s + "s"); err == nil && d > 0 {
		return 0, fmt.Errorf("found %q without a unit, expected a duration such as %ss", s, s)
	}
	return 0, fmt.Errorf("found %q, expected a duration such as 500ms, 20s or 1h", s)
}
