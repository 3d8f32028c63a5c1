package testkit

import (
	"bytes"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// hostile is output that would paint, move the cursor, set the title, or write lines of
// its own, if the log let it.
const hostile = "\x1b[2J\x1b]0;title\x07\x7f\u009b31m\u202e\r{\"level\":\"error\"}\xff\xfe END."

// WantTextOnly runs a shell script that prints hostile text, and looks that this is text in the
// log, in one line, in both of Caddy's formats.
func WantTextOnly(t *testing.T, run func(t *testing.T, script string, logger *zap.Logger)) {
	t.Setenv("TCPLOCK_TEST_HOSTILE", hostile)
	for name, encoder := range map[string]zapcore.Encoder{
		"json":    zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()),
		"console": zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()),
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			run(t, `printf '%s\n' "$TCPLOCK_TEST_HOSTILE"`, zap.New(zapcore.NewCore(encoder, zapcore.AddSync(&log), zap.InfoLevel)))
			text := log.String()
			if strings.Count(text, "\n") != 1 || strings.Count(text, " END.") != 1 {
				t.Errorf("found %q, expected one line", text)
			}
			if i := strings.IndexFunc(text, func(r rune) bool {
				return unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Bidi_Control, r)
			}); i >= 0 || !utf8.ValidString(text) {
				t.Errorf("found %q, expected nothing but text", text)
			}
		})
	}
}
