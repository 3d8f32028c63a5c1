package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// web is nginx, and curl gets a page from it: one process and one connection for each request.
func web(slots int) func() work {
	return func() work {
		return work{
			name:    fmt.Sprintf("curl-%d", slots),
			title:   "curl gets a page of 16 KiB from nginx, clients: 8",
			unit:    "requests/s",
			slots:   slots,
			longer:  1,
			missing: missingPrograms("nginx curl", "nginx", "curl"),
			start:   startNginx,
		}
	}
}

const (
	page        = 16 << 10 // bytes
	nginxConfig = `daemon off;
		master_process off;
		pid pid;
		error_log stderr error;
		events {}
		http {
			access_log off;
			client_body_temp_path tmp;
			proxy_temp_path tmp;
			fastcgi_temp_path tmp;
			uwsgi_temp_path tmp;
			scgi_temp_path tmp;
			server {
				listen %s;
				root .;
			}
		}`
)

func startNginx(ctx context.Context, b *bench) (*job, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "nginx")
	if err != nil {
		return nil, err
	}
	for name, text := range map[string]string{
		"nginx.conf": fmt.Sprintf(nginxConfig, addr),
		"index.html": strings.Repeat("x", page),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	p, err := start(dir, "output", "nginx", "-p", dir, "-c", "nginx.conf", "-e", "stderr")
	if err != nil {
		return nil, err
	}
	if err := p.listening(ctx, netip.MustParseAddrPort(addr)); err != nil {
		p.stop()
		return nil, err
	}
	return &job{service: addr, stop: p.stop, do: func(ctx context.Context, r *result, t *target, d time.Duration) (float64, error) {
		return again(ctx, r, t, 8, d, curl)
	}}, nil
}

func curl(ctx context.Context, addr netip.AddrPort) error {
	out, err := output(exec.CommandContext(ctx, "curl", "-sS", "--fail", "-o", os.DevNull, "-w", "%{size_download}", "http://"+addr.String()+"/"))
	if err == nil && out != fmt.Sprint(page) {
		err = fmt.Errorf("curl: found %s bytes, expected %d", out, page)
	}
	return err
}
