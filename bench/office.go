package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// office is a LibreOffice that converts documents, each for a client of its own: the script that
// users have in examples/.
func office() work {
	w := work{
		name:    "libreoffice",
		title:   "LibreOffice converts a document of a few pages to PDF over UNO, clients: 4",
		unit:    "documents/s",
		slots:   1,
		longer:  3,
		missing: missingPrograms(officePackages, "soffice", python),
		start:   startOffice,
	}
	if w.missing == "" && exec.Command(python, "-c", "import uno").Run() != nil {
		w.missing = fmt.Sprintf("found no module uno of %s, expected it (on Debian: apt-get install %s)", python, officePackages)
	}
	return w
}

const (
	officePackages = "libreoffice-writer-nogui python3-uno"
	python         = "/usr/bin/python3" // the system's: only this one can import uno
	converter      = "../examples/libreoffice/convert.py"
)

func startOffice(ctx context.Context, b *bench) (*job, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	at := netip.MustParseAddrPort(addr)
	dir, err := os.MkdirTemp(b.dir, "office")
	if err != nil {
		return nil, err
	}
	document := filepath.Join(dir, "document.html")
	text := strings.Repeat("<p>"+strings.Repeat("All work and no play. ", 20)+"</p>\n", 24)
	if err := os.WriteFile(document, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := startSoffice(ctx, at, dir)
	if err != nil {
		return nil, err
	}
	convert := func(ctx context.Context, at netip.AddrPort) error {
		pdf, err := os.CreateTemp(dir, "*.pdf")
		if err != nil {
			return err
		}
		defer os.Remove(pdf.Name())
		defer pdf.Close()
		if _, err := output(exec.CommandContext(ctx, python, converter, "--port", fmt.Sprint(at.Port()), document, pdf.Name())); err != nil {
			return err
		}
		var head [5]byte
		if _, err := pdf.Read(head[:]); err != nil || string(head[:]) != "%PDF-" {
			return fmt.Errorf("convert.py: found a document that begins with %q, expected %%PDF-", head)
		}
		return nil
	}
	if err := convert(ctx, at); err != nil {
		p.stop()
		return nil, errors.Join(err, p.failure("its output"))
	}
	return &job{service: addr, stop: p.stop, do: func(ctx context.Context, r *result, t *target, d time.Duration) (float64, error) {
		return again(ctx, r, t, 4, d, convert)
	}}, nil
}

// startSoffice starts LibreOffice's program itself: the script and the starter before it would leave it
// running when they are killed.
func startSoffice(ctx context.Context, at netip.AddrPort, dir string) (*process, error) {
	script, err := exec.LookPath("soffice")
	if err == nil {
		script, err = filepath.EvalSymlinks(script)
	}
	if err != nil {
		return nil, err
	}
	program, profile := script+".bin", "-env:UserInstallation=file://"+dir+"/profile"
	first := exec.CommandContext(ctx, program, profile, "--headless", "--terminate_after_init") // makes the profile
	first.Env = append(os.Environ(), "TMPDIR="+dir)
	if _, err := output(first); err != nil {
		return nil, err
	}
	p, err := start(dir, "output", program, profile, "--headless", "--norestore", "--nologo", "--nodefault",
		fmt.Sprintf("--accept=socket,host=%s,port=%d;urp;", at.Addr(), at.Port()))
	if err != nil {
		return nil, err
	}
	if err := p.listening(ctx, at); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}
