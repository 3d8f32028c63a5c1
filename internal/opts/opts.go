// Package opts parses the blocks of a Caddyfile. A table tells which options a block may have, and
// how to read their values. The package checks the number of arguments, duplicates, unexpected
// blocks and unknown names for all tables in one place. Each error has the file and line, and says
// what was found and what was expected.
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

// Table has the options of a Caddyfile block, by name.
type Table map[string]Option

// Option tells how to read one line of a block.
type Option struct {
	Min, Max int  // the number of arguments
	Repeat   bool // may occur more than once
	Set      func(d *caddyfile.Dispenser, args []string) error

	// Own, if not nil, replaces Min, Max and Set. It reads the line and its block. The dispenser
	// is on the option's name. The errors of Own must have file and line.
	Own func(d *caddyfile.Dispenser) error
}

// One is an option with one argument, which must not be empty. It stores what parse returns in dst.
func One[T any](dst *T, parse func(string) (T, error)) Option {
	return Option{Min: 1, Max: 1, Set: func(_ *caddyfile.Dispenser, args []string) error {
		if args[0] == "" { // most likely an environment variable that is not set
			return errors.New("found an empty argument, expected a value")
		}
		value, err := parse(args[0])
		*dst = value
		return err
	}}
}

// Optional is like One, for an option whose absence differs from its zero value: dst stays nil if
// the option is absent.
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

// Value reads s as the option's only argument. It is for values that are not in a Caddyfile, such as
// a flag of a command.
func (opt Option) Value(s string) error { return opt.Set(nil, []string{s}) }

// Flag is an option without arguments. It sets dst to true.
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

// Parse reads the block that follows d, if there is one. At the start and after each option it calls
// check, if that is not nil. For a name that is not in the table it calls other, with the dispenser on the name; if
// other is nil, such a name is an error.
func (o Table) Parse(d *caddyfile.Dispenser, check func() error, other func(*caddyfile.Dispenser) error) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); ; {
		if check != nil {
			if err := check(); err != nil {
				return d.WrapErr(err)
			}
		}
		if !d.NextBlock(nesting) {
			return nil
		}
		name := d.Val()
		opt, known := o[name]
		switch {
		case !known && other != nil:
			opt = Option{Own: other}
		case !known:
			return d.Errf("found option %q, expected one of %s", name, o)
		case seen[name] && !opt.Repeat:
			return d.Errf("%s: found a second time, expected once", name)
		}
		seen[name] = true
		if err := opt.read(d, name); err != nil {
			return err
		}
	}
}

// String lists the names in the table.
func (o Table) String() string { return strings.Join(slices.Sorted(maps.Keys(o)), ", ") }

func (opt Option) read(d *caddyfile.Dispenser, name string) error {
	if opt.Own != nil {
		return opt.Own(d)
	}
	args := d.RemainingArgs()
	if len(args) < opt.Min || len(args) > opt.Max {
		expected := strconv.Itoa(opt.Min)
		if opt.Max > opt.Min {
			expected = fmt.Sprintf("%d to %d", opt.Min, opt.Max)
		}
		return d.Errf("%s: found %s, expected %s", name, Count(len(args), "argument"), expected)
	}
	if err := opt.Set(d, args); err != nil {
		return d.Errf("%s: %w", name, err)
	}
	if next := *d; !next.NextLine() && next.Next() {
		return d.Errf("%s: found a block, expected none", name)
	}
	return nil
}

// None returns an error if arguments or a block follow the name that d is on.
func None(d *caddyfile.Dispenser) error { return Flag(new(bool)).read(d, d.Val()) }

// Count writes a number with its noun, which is in the plural unless n is 1.
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Text accepts any value. It is a parser for One and Optional, and so are Number and Duration.
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

// Duration reads a duration, which must have a unit.
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
