// Package cli has the commands of caddy tcplock: they run a lock without a config file, or show and operate
// the locks of a running Caddy through its admin API.
package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/mholt/caddy-l4/layer4"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/lock"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "tcplock",
		Usage: "--listen <port> --port <port> [--host <host>] [--slots <n>] [--hold-timeout <ms>] [...]",
		Short: "Puts a FIFO lock in front of a TCP service",
		Long: `
Puts a lock in front of a TCP service, without a config file. At most --slots
connections reach the service at once. The rest stand in line, first come, first
served. In the short form of TCPLock (2012):

	$ caddy tcplock -l 9000 -p 8100 -h localhost -n 1 -t 20000

-h is the host. Without a value it shows this help. Durations have a unit (500ms,
20s, 1h). Only --hold-timeout takes a number without one: milliseconds.

Hooks and refuse handlers need a config file, see the tcplock handler. This lock
has no admin API, so the commands below do not reach it. They are for the locks
of a Caddy that runs with a config file.
`,
		CobraFunc: setUpCommand,
	})
}

// commandLine is the parsed command line: where to listen, where the service is, and the
// settings of the lock between them.
type commandLine struct {
	listen  string
	to      string // or host and port
	host    string
	port    string
	handler handler
	debug   bool
}

// handler is the lock's handler in a config.
type handler struct {
	Name string `json:"name,omitempty"`
	lock.Settings
}

func setUpCommand(cmd *cobra.Command) {
	line := new(commandLine)
	line.define(cmd.Flags())
	cmd.DisableFlagsInUseLine = true
	cmd.SetFlagErrorFunc(usageError)
	cmd.AddCommand(adminCommands()...)
	cmd.AddCommand(versionCommand())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if slices.Equal(args, []string{"help"}) {
			return cmd.Help()
		}
		cfg, err := line.config(args)
		if err != nil {
			return usageError(cmd, err)
		}
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) {
			caddy.TrapSignals()
			if err := caddy.Run(cfg); err != nil {
				return caddy.ExitCodeFailedStartup, err
			}
			select {} // until a signal ends the process
		})(cmd, nil)
	}
}

// usageError puts the flag's name before the error, as other errors have it, and the command
// for help behind it. -h is the host, but without a value it shows the help, as it does in
// most programs.
func usageError(cmd *cobra.Command, err error) error {
	var noValue *pflag.ValueRequiredError
	if errors.As(err, &noValue) && noValue.GetFlag().Shorthand == "h" {
		return pflag.ErrHelp
	}
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		err = fmt.Errorf("--%s: %w", invalid.GetFlag().Name, errors.Unwrap(invalid))
	}
	return fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())
}

// define adds the flags.
func (l *commandLine) define(fs *pflag.FlagSet) {
	h := &l.handler
	fs.SortFlags = false
	fs.FuncP("listen", "l", "`port` to listen on, on all interfaces, or host:port or unix/<path> (required)",
		opts.One(&l.listen, listenAddress).Value)
	fs.FuncP("port", "p", "`port` of the service (required, or --to)", opts.One(&l.port, port).Value)
	fs.FuncP("host", "h", "`host` of the service (default localhost)", opts.One(&l.host, host).Value)
	fs.Func("to", "`address` of the service, host:port or unix/<path>, instead of --host and --port",
		opts.One(&l.to, address).Value)
	fs.FuncP("slots", "n", "`number` of connections that may be at the service at once (default 1)",
		opts.One(&h.Slots, lock.ParseSlots).Value)
	fs.FuncP("hold-timeout", "t",
		"longest `duration` with a slot; a number without a unit is milliseconds (default none)",
		opts.One(&h.HoldTimeout, durationOrMillis).Value)
	fs.Func("max-waiting", "`number` of connections that may stand in line (default: what file descriptors allow)",
		opts.Optional(&h.MaxWaiting, opts.Number).Value)
	fs.Func("wait-timeout", "longest `duration` in line (default none)", opts.One(&h.WaitTimeout, opts.Duration).Value)
	fs.Func("linger", "`duration` that a silent client may keep a slot after the service has closed (default "+
		lock.DefaultLinger.String()+")", opts.Optional(&h.Linger, opts.Duration).Value)
	fs.Func("half-closed", "`keep` or drop waiters that have sent data and closed their side (default keep)",
		opts.One(&h.HalfClosed, opts.Text).Value)
	fs.Func("settle", "`duration` that a slot stays empty after each holder (default none)",
		opts.One(&h.Settle, opts.Duration).Value)
	fs.Func("drain", "`duration` that holders may go on at shutdown (default "+lock.DefaultDrain.String()+")",
		opts.Optional(&h.Drain, opts.Duration).Value)
	fs.Func("name", "`name` of the lock in logs and placeholders (default "+status.DefaultName+")",
		opts.One(&h.Name, opts.Text).Value)
	fs.BoolVarP(&l.debug, "debug", "v", false, "write the debug log")
	// Otherwise cobra adds this flag with the shorthand -h.
	fs.Bool("help", false, "show this help")
}

// config turns the command line into a Caddy config, so that it passes the same checks as a
// config from a file.
func (l *commandLine) config(args []string) (*caddy.Config, error) {
	if len(args) > 0 {
		return nil, fmt.Errorf("found %q, expected options, or one of the commands that --help lists", args[0])
	}
	if l.listen == "" {
		return nil, errors.New("found no --listen, expected the port to listen on")
	}
	switch {
	case l.to != "" && (l.host != "" || l.port != ""):
		return nil, errors.New("found --to beside --host or --port, expected one or the other")
	case l.to == "" && l.port == "":
		return nil, errors.New("found neither --port nor --to, expected one of them, for the address of the service")
	}
	if err := lock.CheckName(l.handler.Name); err != nil {
		return nil, err
	}
	l.handler.To = cmp.Or(l.to, net.JoinHostPort(cmp.Or(l.host, "localhost"), l.port))
	if err := l.handler.Settings.Check(); err != nil {
		return nil, err
	}
	app := layer4.App{Servers: map[string]*layer4.Server{"tcplock": {
		Listen: []string{l.listen},
		Routes: layer4.RouteList{{HandlersRaw: []json.RawMessage{
			caddyconfig.JSONModuleObject(&l.handler, "handler", "tcplock", nil),
		}}},
	}}}
	cfg := &caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: new(false)}},
		AppsRaw: caddy.ModuleMap{"layer4": caddyconfig.JSON(app, nil)},
	}
	if l.debug {
		cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
			"default": {BaseLog: caddy.BaseLog{Level: zap.DebugLevel.CapitalString()}},
		}}
	}
	return cfg, nil
}

// The parsers of values that only flags take.

func port(s string) (string, error) {
	if n, err := strconv.ParseUint(s, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("found %q, expected a port from 1 to 65535", s)
	}
	return s, nil
}

func host(s string) (string, error) {
	if _, err := netip.ParseAddr(s); err != nil && (strings.ContainsAny(s, ":/[] ") || strings.HasPrefix(s, "-")) {
		return "", fmt.Errorf("found %q, expected a host name or an IP address", s)
	}
	return s, nil
}

// address parses the address of one stream socket.
func address(s string) (string, error) {
	a, err := caddy.ParseNetworkAddress(s)
	switch {
	case err != nil:
	case a.Network == "unix" && a.Host != "":
		return s, nil
	case strings.HasPrefix(a.Network, "tcp") && a.StartPort > 0 && a.StartPort == a.EndPort:
		return s, nil
	}
	return "", fmt.Errorf("found %q, expected host:port with one port from 1 to 65535, or unix/<path>", s)
}

// listenAddress puts TCP on keep/, which loses no connection when descriptors run out, and lets no second
// process in.
func listenAddress(s string) (string, error) {
	if port, err := port(s); err == nil {
		return "keep/:" + port, nil
	}
	addr, err := address(s)
	if err != nil {
		return "", fmt.Errorf("%w, or just the port", err)
	}
	if a, err := caddy.ParseNetworkAddress(addr); err == nil && a.Network == "tcp" {
		return caddy.JoinNetworkAddress("keep", a.Host, strconv.FormatUint(uint64(a.StartPort), 10)), nil
	}
	return addr, nil
}

// durationOrMillis takes a number without a unit as milliseconds, as TCPLock did.
func durationOrMillis(s string) (caddy.Duration, error) {
	if strings.Trim(s, "0123456789") == "" {
		s += "ms"
	}
	return opts.Duration(s)
}
