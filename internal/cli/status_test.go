package cli

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-4dbef00f/caddy-tcplock/status"
)

// sampleTime is the time of the sample locks.
var sampleTime = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return sampleTime.Add(-d) }

// sampleLocks is a lock with something in each field. Its first waiter has a name of control characters.
func sampleLocks() status.Lock {
	until, most := sampleTime.Add(3*time.Minute), 50
	return status.Lock{
		Name: "soffice", Now: sampleTime, Slots: 3, Held: 2, Waiting: 4, MaxWaiting: &most, OldestWaitSeconds: 61, LeftOver: 1,
		Paused:      &status.Pause{Since: ago(72 * time.Second), Until: &until},
		Connections: map[string]uint64{status.Served: 1000, status.RefusedFull: 7, status.WaitTimeout: 2, status.HoldTimeout: 3, status.ClientGone: 4},
		Waits:       status.Waits{Count: 256, P50Seconds: .004, P90Seconds: 2.5, P99Seconds: 30, MaxSeconds: 31},
		Holders: []status.Connection{
			{ID: 17, Client: "127.0.0.1:51234", State: status.StateConnected, Since: ago(2500 * time.Millisecond), WaitedSeconds: .012, Slot: 1, Worker: "127.0.0.1:8101", BytesIn: 1234, BytesOut: 5 << 20},
			{ID: 9, Client: "[2001:db8::1]:40000", State: status.StateEnding, Since: ago(time.Hour), WaitedSeconds: 0, Slot: 3, Worker: "127.0.0.1:8103"},
		},
		Waiters: []status.Connection{
			{ID: 18, Client: "unix\x1b[31m\x1b]0;title\a", State: status.StateWaiting, Position: 1, Priority: 10, WaitedSeconds: 61},
			{ID: 20, Client: "127.0.0.1:51236", State: status.StateWaiting, Position: 2, WaitedSeconds: .5},
		},
		Workers: []status.Worker{
			{Slot: 1, Address: "127.0.0.1:8101", State: status.WorkerUp, Process: &status.Process{State: "ready", Since: ago(time.Hour), PID: 4711, Connections: 19, Due: "every", Restarts: map[string]int{"every": 5, "max_memory": 1}, LastReason: "every"}},
			{Slot: 2, Address: "127.0.0.1:8102", State: status.WorkerUnready, Process: &status.Process{State: "backing off", Since: ago(2 * time.Second), Failed: "exit status 1"}},
			{Slot: 3, Address: "127.0.0.1:8103", State: status.WorkerOut},
		},
		Events: []status.Event{
			{Time: ago(2 * time.Second), Event: "failed", Slot: 2, Error: "exit status 1", Count: 3},
			{Time: ago(72 * time.Second), Event: "paused"},
			{Time: ago(time.Hour), Event: "timeout", Slot: 3, Connection: 9, Client: "[2001:db8::1]:40000"},
		},
	}
}

const sampleText = `
LOCK     SLOTS  WAITING  OLDEST  P50  P99  SERVED  REFUSED  FAILED  GONE  STATE
soffice    2/3     4/50   1m01s  4ms  30s    1000        9       3     4  paused for 1m12s (3m00s left), 2 of 3 workers down, 1 left over

SLOT  ID  HOLDER                HELD  WAITED       IN      OUT  STATE      WORKER
   1  17  127.0.0.1:51234       2.5s    12ms  1.2 KiB  5.0 MiB  connected  127.0.0.1:8101
   2      free
   3   9  [2001:db8::1]:40000  1h00m      0s      0 B      0 B  ending     127.0.0.1:8103

POSITION  ID  WAITER               WAITED  PRIORITY
       1  18  unix?[31m?]0;title?   1m01s        10
       2  20  127.0.0.1:51236       500ms
... and 2 more

SLOT  WORKER          STATE    PROCESS        FOR   PID  SERVED  RESTARTS               REASON
   1  127.0.0.1:8101  up       ready        1h00m  4711      19  5 every, 1 max_memory  due: every
   2  127.0.0.1:8102  unready  backing off   2.0s             0  0                      exit status 1
   3  127.0.0.1:8103  down

  AGO  EVENT    SLOT  ID  CLIENT               WHAT
 2.0s  failed      2                           exit status 1 (3 times)
1m12s  paused
1h00m  timeout     3   9  [2001:db8::1]:40000
`

// What status prints for one lock, to the letter.
func TestStatusText(t *testing.T) {
	s := sampleLocks()
	if got := printed(lockLines(&s)); got != sampleText[1:] {
		t.Errorf("got\n%swant%s", got, sampleText)
	}
}

// If tcplock itself connects to the service, status has a column for the time that it took.
func TestStatusOfConnects(t *testing.T) {
	s := sampleLocks()
	s.Holders[0].ConnectSeconds = .0042
	got := strings.Split(printed(lockLines(&s)), "\n")
	for i, want := range []string{
		"SLOT  ID  HOLDER                HELD  WAITED       IN      OUT  STATE      WORKER          CONNECT",
		"   1  17  127.0.0.1:51234       2.5s    12ms  1.2 KiB  5.0 MiB  connected  127.0.0.1:8101      4ms",
		"   2      free",
		"   3   9  [2001:db8::1]:40000  1h00m      0s      0 B      0 B  ending     127.0.0.1:8103",
	} {
		if got[3+i] != want {
			t.Errorf("got\n%s\nexpected\n%s", got[3+i], want)
		}
	}
}

// What status prints for a lock without connections and events.
func TestStatusOfIdleLock(t *testing.T) {
	s := status.Lock{Name: "a", Slots: 100}
	want := `
LOCK  SLOTS  WAITING  OLDEST  P50  P99  SERVED  REFUSED  FAILED  GONE  STATE
a     0/100        0       -    -    -       0        0       0     0  open

no holders

no waiters

no events
`
	if got := printed(lockLines(&s)); got != want[1:] {
		t.Errorf("got\n%swant%s", got, want)
	}
	if got := printed(locksTable(nil, nil).lines(0, 0, nil)); got != "no locks\n" {
		t.Errorf("without locks: got %q", got)
	}
}

func TestLockState(t *testing.T) {
	for want, s := range map[string]status.Lock{
		"open":                         {OldestWaitSeconds: 10},
		"slow":                         {OldestWaitSeconds: 10.1},
		"hooks alone":                  {Exclusive: true},
		"open ":                        {OldestWaitSeconds: 20, Waits: status.Waits{MaxSeconds: 21}},
		"slow ":                        {OldestWaitSeconds: 22, Waits: status.Waits{MaxSeconds: 21}},
		"open  ":                       {Workers: []status.Worker{{State: status.WorkerUnready, Process: new(status.Process)}}},
		"paused":                       {Now: sampleTime, Paused: &status.Pause{Since: ago(999 * time.Millisecond)}},
		"paused for 5.0s, 2 left over": {OldestWaitSeconds: 20, Now: sampleTime, LeftOver: 2, Paused: &status.Pause{Since: ago(5 * time.Second)}},
		"1 of 1 worker down":           {Workers: []status.Worker{{Slot: 1, State: status.WorkerOut}}},
		"service down":                 {Workers: []status.Worker{{State: status.WorkerOut}}},
		"failing":                      {Failing: new(status.Failing)},
		"failing, paused":              {Failing: new(status.Failing), Paused: new(status.Pause)},
	} {
		if got := lockState(&s).text; got != strings.TrimRight(want, " ") {
			t.Errorf("got %q, expected %q", got, want)
		}
	}
}

// status and top say why a lock is failing, as an alarm. No control character in a command's output
// reaches the terminal.
func TestStatusOfFailingLock(t *testing.T) {
	s := sampleLocks()
	s.Failing = &status.Failing{Since: ago(72 * time.Second), Connections: 1, Error: "exec sh: exit status 1: \x1b[2Jno printer"}
	const want = "failing for 1m12s, 1 connection refused: exec sh: exit status 1: ?[2Jno printer"
	if got := strings.Split(printed(lockLines(&s)), "\n")[3]; got != want {
		t.Errorf("status: got %q, expected %q", got, want)
	}
	for _, height := range []int{24, 40} {
		if got := screenOf(topOf(s), 100, height); !strings.Contains(got, "\n "+want+"\n") {
			t.Errorf("top: got\n%sexpected the line %q", got, want)
		}
	}
	if state := lockState(&s); state.style != styleAlarm || !strings.HasPrefix(state.text, "failing, paused for 1m12s") {
		t.Errorf("got the state %+v, expected failing first, as an alarm", state)
	}
}

// --json prints the answer of the admin API, to the letter, for all locks and for one.
func TestStatusJSON(t *testing.T) {
	const answer = `{"locks":[{"name":"a","field of a later version":1}]}`
	api := newFakeAdmin(t, nil)
	api.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(answer + "\n")) })
	for _, args := range [][]string{{"status", "--json"}, {"status", "a", "--json"}} {
		if got, err := execute(append(args, "--address", api.address())...); err != nil || got != answer+"\n" {
			t.Errorf("%v: got %q, error %v, expected %q", args, got, err, answer)
		}
	}
}
