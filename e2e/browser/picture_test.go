package browser

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// The picture in README.md is made by
//
//	go test -run TestPicture -timeout 10m -picture ../../docs/status.png -after 5m
//
// This takes five minutes, because the plots show the last five minutes.
var (
	picture = flag.String("picture", "", "write the picture of the page to this file")
	after   = flag.Duration("after", 10*time.Second, "... when clients have come and gone for so long")
)

// The picture shows the page as it is, with a busy lock, and is small enough for a README.
func TestPicture(t *testing.T) {
	t.Setenv("SELF", os.Args[0])
	c := newCaddy(t, "testdata/picture.Caddyfile", "WORKER1", "WORKER2", "WORKER3", "LOCK")
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	all.Go(func() { arrive(ctx, c.env["LOCK"], &all) })

	time.Sleep(*after)
	p := open(t, c.url())
	p.do(t, chromedp.EmulateViewport(1000, 640))
	p.until(t, "a connection waits", `document.querySelectorAll('.tile').length > 3 && document.querySelectorAll('.connected').length > 1`)
	p.until(t, "a plot", `document.querySelectorAll('.plot path[d^=M]').length > 3`)
	raw, err := chromedp.Run(p.ctx, chromedp.Screenshot(chromedp.CSS("body")))
	if err != nil {
		t.Fatal(err)
	}
	raw = small(t, raw)
	config, err := png.DecodeConfig(bytes.NewReader(raw))
	if err != nil || config.Width != 1000 || config.Height < 400 || len(raw) > 100_000 {
		t.Errorf("found a picture of %d x %d and %d bytes, error %v, expected it 1000 wide, and 100000 bytes at most", config.Width, config.Height, len(raw), err)
	}
	if *picture != "" {
		if err := os.WriteFile(*picture, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// small makes a picture smaller. It keeps the 256 most frequent colours. The others are shades at
// the edges of letters.
func small(t *testing.T, raw []byte) []byte {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[color.Color]int)
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			count[img.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return count[b] - count[a] })
	few := image.NewPaletted(img.Bounds(), colours[:min(256, len(colours))])
	draw.Draw(few, few.Bounds(), img, image.Point{}, draw.Src)
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&out, few); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestPictureWorker is the program of a worker if Caddy runs it. It is slow for each client, and
// too slow for some.
func TestPictureWorker(t *testing.T) {
	address := os.Getenv("PICTURE_WORKER")
	if address == "" {
		return
	}
	time.Sleep(time.Second) // so that the page shows starts
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer conn.Close()
			buf := make([]byte, 64<<10)
			n, _ := conn.Read(buf)
			if n == 0 { // a probe
				return
			}
			time.Sleep(time.Second + time.Duration(rand.ExpFloat64()*float64(1200*time.Millisecond)))
			_, _ = conn.Write(make([]byte, 20*n))
		}()
	}
}

// arrive lets clients come, sometimes many and sometimes few.
func arrive(ctx context.Context, address string, all *sync.WaitGroup) {
	for start := time.Now(); ; {
		wave := 1 + 0.8*math.Sin(time.Since(start).Minutes()*2*math.Pi/2.2)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(rand.ExpFloat64() * float64(800*time.Millisecond) / wave)):
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			continue
		}
		fmt.Fprintf(conn, "PROXY TCP4 192.0.2.%d 192.0.2.1 %d 9000\r\n%s", 10+rand.IntN(200), 32768+rand.IntN(28000), make([]byte, 1000+rand.IntN(60000)))
		all.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			_, _ = io.Copy(io.Discard, conn)
		})
	}
}
