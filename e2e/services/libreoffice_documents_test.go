//go:build unix

package services_test

import (
	"bytes"
	"encoding/base64"
	"encoding/csv"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
)

// document is a document to convert, and what its PDF must have.
type document struct {
	source string // what it is made of, or path
	path   string
	title  string // empty: it has none
	pages  int    // 0: one or more
}

func (d document) pdf() string { return d.path + ".pdf" }

// pangrams are the documents' text.
var pangrams = []string{
	"Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
	"Portez ce vieux whisky au juge blond qui fume, à Noël, près d’une forêt.",
	"Pchnąć w tę łódź jeża lub ośm skrzyń fig.",
	"Съешь же ещё этих мягких французских булок, да выпей чаю.",
	"Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
	"דג סקרן שט בים מאוכזב ולפתע מצא חברה.",
	"いろはにほへと ちりぬるを わかよたれそ つねならむ",
	"The quick brown fox jumps over the lazy dog for 1,234.56 € & “nothing” — 100 % <free> 🦊.",
}

// writeDocuments writes the text of 62 different documents. soffice must make those that are
// not HTML, RTF or CSV from their sources.
func writeDocuments(t *testing.T, dir string) (docs []document) {
	t.Helper()
	for _, kind := range []struct {
		ext    string
		count  int
		source string
		write  func(i int, title string, pages int) []byte
	}{
		{"html", 12, "html", writeHTML},
		{"rtf", 10, "rtf", writeRTF},
		{"csv", 10, "csv", writeCSV},
		{"odt", 10, "html", writeHTML},
		{"docx", 10, "html", writeHTML},
		{"ods", 10, "csv", writeCSV},
	} {
		for i := range kind.count {
			name := fmt.Sprintf("%s%02d", kind.ext, i)
			doc := document{
				source: filepath.Join(dir, name+"."+kind.source),
				path:   filepath.Join(dir, name+"."+kind.ext),
			}
			if kind.source != "csv" {
				doc.title = "Schriftstück № " + name
				doc.pages = 1 + i*i%17
			}
			if err := os.WriteFile(doc.source, kind.write(i, doc.title, doc.pages), 0o600); err != nil {
				t.Fatal(err)
			}
			docs = append(docs, doc)
		}
	}
	return docs
}

func writeHTML(i int, title string, pages int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>%s</title></head><body>\n", title)
	for page := range pages {
		style := ""
		if page > 0 {
			style = ` style="page-break-before: always"`
		}
		fmt.Fprintf(&b, "<h1%s>%s, %d/%d</h1>\n", style, title, page+1, pages)
		for line := range 3 + i%5 {
			fmt.Fprintf(&b, "<p>%s <b>%d</b></p>\n", htmlText.Replace(pangrams[(i+page+line)%len(pangrams)]), line)
		}
		b.WriteString("<table border=\"1\">")
		for row := range 4 + i {
			fmt.Fprintf(&b, "<tr><th>%d</th><td>%x</td><td>%s</td></tr>\n", row, i*page*row, strings.Repeat("ß", row))
		}
		b.WriteString("</table>\n")
	}
	fmt.Fprintf(&b, "<p><img width=\"120\" height=\"90\" src=\"data:image/png;base64,%s\"></p></body></html>\n", picture(i))
	return b.Bytes()
}

var htmlText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// picture returns a picture in base64, some ten thousand bytes of it.
func picture(i int) string {
	img := image.NewRGBA(image.Rect(0, 0, 160, 120))
	for x := range 160 {
		for y := range 120 {
			img.Set(x, y, color.RGBA{uint8(x * y * (i + 1)), uint8(x*x + i), uint8(y * x * x), 255})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

func writeRTF(i int, title string, pages int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{\rtf1\ansi\deff0{\fonttbl{\f0 DejaVu Serif;}}{\info{\title %s}}\f0\fs22`, rtfText(title))
	for page := range pages {
		if page > 0 {
			b.WriteString(`\page `)
		}
		fmt.Fprintf(&b, "\n{\\b %s, %d/%d\\par}\n", rtfText(title), page+1, pages)
		for line := range 10 + i {
			fmt.Fprintf(&b, "{\\i %d} %s\\par\n", line, rtfText(pangrams[(i+page+line)%len(pangrams)]))
		}
	}
	b.WriteString("}\n")
	return b.Bytes()
}

// rtfText writes whatever is not ASCII as \uN? with UTF-16 code units as signed numbers.
func rtfText(s string) string {
	var b strings.Builder
	for _, unit := range utf16.Encode([]rune(s)) {
		if unit < 0x80 {
			b.WriteByte(byte(unit))
		} else {
			fmt.Fprintf(&b, `\u%d?`, int16(unit))
		}
	}
	return b.String()
}

func writeCSV(i int, _ string, _ int) []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	for row := range 20 + 40*i {
		_ = w.Write([]string{strconv.Itoa(row), pangrams[(i+row)%len(pangrams)], fmt.Sprintf("%d.%02d", row*i, row%100), "=A1*" + strconv.Itoa(row)})
	}
	w.Flush()
	return b.Bytes()
}

var pageObject = regexp.MustCompile(`/Type\s*/Page[^s]`)

// checkPDF returns what is wrong with a PDF. Its title and pages show whether it belongs to this
// document.
func checkPDF(doc document) error {
	data, err := os.ReadFile(doc.pdf())
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(data, []byte("%PDF-")) || !bytes.HasSuffix(bytes.TrimSpace(data), []byte("%%EOF")) {
		return fmt.Errorf("found no whole PDF in %d bytes", len(data))
	}
	if len(data) < 2000 || len(data) > 2_000_000 {
		return fmt.Errorf("found %d bytes, expected thousands, not millions", len(data))
	}
	pages := len(pageObject.FindAll(data, -1))
	if pdfinfo, err := exec.LookPath("pdfinfo"); err == nil {
		out, err := exec.Command(pdfinfo, doc.pdf()).CombinedOutput()
		if err != nil {
			return fmt.Errorf("pdfinfo: %w\n%s", err, out)
		}
		_, count, _ := strings.Cut(string(out), "\nPages:")
		count, _, _ = strings.Cut(count, "\n")
		if pages, err = strconv.Atoi(strings.TrimSpace(count)); err != nil {
			return fmt.Errorf("pdfinfo: found no number of pages: %w\n%s", err, out)
		}
	}
	if pages < 1 || doc.pages > 0 && pages != doc.pages {
		return fmt.Errorf("found %d pages, expected %d (0: any)", pages, doc.pages)
	}
	title := fmt.Sprintf("/Title<FEFF%s>", strings.ReplaceAll(fmt.Sprintf("%04X", utf16.Encode([]rune(doc.title))), " ", ""))
	title = strings.NewReplacer("[", "", "]", "").Replace(title)
	if doc.title != "" && !bytes.Contains(data, []byte(title)) {
		return fmt.Errorf("found another title than %s", doc.title)
	}
	return nil
}
