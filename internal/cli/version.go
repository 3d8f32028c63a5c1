package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/seed-4dbef00f/caddy-tcplock/internal/opts"
	"github.com/seed-4dbef00f/caddy-tcplock/internal/version"
)

// versionCommand tells of this binary. It asks no Caddy.
func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:                   "version [--json]",
		Short:                 "Prints the versions of tcplock, Caddy and caddy-l4",
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     cobra.NoFileCompletions,
		Long: `
Prints which versions of tcplock, Caddy, caddy-l4 and Go are in this binary. A
version "devel" means that the module was built from a directory without a
version. The status page and the metric caddy_tcplock_build_info tell the
versions of a running Caddy.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError(cmd, fmt.Errorf("found %s, expected nothing but options", opts.Count(len(args), "argument")))
			}
			v := version.Get()
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "tcplock   %s\nCaddy     %s\ncaddy-l4  %s\nGo        %s\n", v.Tcplock, v.Caddy, v.CaddyL4, v.Go)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the versions as JSON")
	return cmd
}
