package hook

import (
	"encoding/json"
	"errors"
	"testing"
)

// How often a hook runs is a number or a duration in JSON, and more than zero. The hook writes it as it
// has read it.
func TestEveryJSON(t *testing.T) {
	const expected = ", expected a number or a duration, more than 0"
	for _, test := range []struct{ raw, want string }{
		{`20`, `20`},
		{`"20"`, `20`},
		{`"1h30m"`, `"1h30m0s"`},
		{`"2d"`, `"48h0m0s"`},
		{`"100ns"`, `"100ns"`},
		{`0`, "every: found 0" + expected},
		{`-3`, "every: found -3" + expected},
		{`1.5`, "every: found 1.5" + expected},
		{`"0s"`, "every: found 0s" + expected},
		{`"-5m"`, "every: found -5m" + expected},
		{`"often"`, "every: found often" + expected},
		{`""`, "every: found " + expected},
		{`true`, "every: found true" + expected},
		{`[20]`, "every: found [20]" + expected},
		{`99999999999999999999`, "every: found 99999999999999999999" + expected},
	} {
		var hook Hook
		err := json.Unmarshal([]byte(`{"on":"activate","every":`+test.raw+`}`), &hook)
		if err == nil {
			var again Hook
			raw, err := json.Marshal(hook)
			if err = errors.Join(err, json.Unmarshal(raw, &again)); err != nil || again.Every != hook.Every {
				t.Errorf("%s: found %+v (%v) after %+v, expected the same", test.raw, again.Every, err, hook.Every)
			}
			if want := `{"on":"activate","every":` + test.want + `}`; string(raw) != want {
				t.Errorf("%s: found %s, expected %s", test.raw, raw, want)
			}
		} else if err.Error() != test.want {
			t.Errorf("%s: found error %q, expected %s", test.raw, err, test.want)
		}
	}
	if raw, err := json.Marshal(Hook{On: Activate}); err != nil || string(raw) != `{"on":"activate"}` {
		t.Errorf("found %s (%v), expected no every", raw, err)
	}
}
