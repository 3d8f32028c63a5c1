package cli

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
)

// ParseCommand reads a command line, words separated by blanks, as the command does.
func ParseCommand(line string) (*caddy.Config, error) {
	cmd := &cobra.Command{Use: "tcplock"}
	l := new(commandLine)
	l.define(cmd.Flags())
	if err := cmd.ParseFlags(strings.Fields(line)); err != nil {
		return nil, usageError(cmd, err)
	}
	return l.config(cmd.Flags().Args())
}
