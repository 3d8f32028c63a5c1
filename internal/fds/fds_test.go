package fds

import "testing"

// withLimit sets the limit of the budget for the test. At the end of the test nothing may be in use.
func withLimit(t *testing.T, processLimit int64) {
	t.Helper()
	before := Process.SetLimit(processLimit)
	t.Cleanup(func() {
		if left := Process.InUse(); left != (Use{}) {
			t.Errorf("the budget still counts %+v, expected nothing", left)
		}
		Process.SetLimit(before)
	})
}

// fillBudget adds connections until the budget is full, and returns how many it has added.
func fillBudget() (n int) {
	for Process.Enter() {
		n++
	}
	return n
}

func emptyBudget(n int) {
	for range n {
		Process.Leave()
	}
}

// After slots were lowered, the sockets of the holders still count, and so do the free slots of
// another lock.
func TestBudgetAfterLoweredSlots(t *testing.T) {
	withLimit(t, 1024)
	var lowered, other Sockets
	lowered.SetSlots(400)
	other.SetSlots(10)
	for range 400 {
		if !Process.Enter() {
			t.Fatal("found no room for 400 holders")
		}
		lowered.Open()
	}
	lowered.SetSlots(1)
	n := 400 + fillBudget()
	if sockets := int64(n + 400 + 10); sockets != 1024-128 {
		t.Errorf("found room for %d connections, with %d sockets in all, expected %d sockets", n, sockets, 1024-128)
	}
	for range 399 { // each that ends makes room
		lowered.Close()
		Process.Leave()
	}
	n -= 399
	n += fillBudget()
	if sockets := n + 1 + 10; sockets != 1024-128 {
		t.Errorf("found room for %d connections, with %d sockets in all, expected %d sockets", n, sockets, 1024-128)
	}
	lowered.Close()
	emptyBudget(n)
	lowered.SetSlots(0)
	other.SetSlots(0)
}

// Processes are never refused their descriptors, and connections leave room for them: 33 services
// need more than the reserve.
func TestBudgetOfServices(t *testing.T) {
	withLimit(t, 1024)
	const services = 33
	var pool Sockets
	pool.SetSlots(services)
	var ends []func()
	for range services {
		ends = append(ends, Process.Take(PerProcess))
	}
	n := fillBudget()
	if all := n + services + services*PerProcess; all != 1024-128 {
		t.Errorf("found %d descriptors in use, with %d connections, expected %d", all, n, 1024-128)
	}
	for _, end := range ends {
		end()
	}
	if more := fillBudget(); more != services*PerProcess {
		t.Errorf("found room for %d more when the services had ended, expected %d", more, services*PerProcess)
	} else {
		n += more
	}
	emptyBudget(n)
	pool.SetSlots(0)
}

// What connections can do without gets an eighth of the descriptors. They count, until they are given back.
func TestSpare(t *testing.T) {
	withLimit(t, 1024)
	var all []func()
	for {
		release, ok := Process.Spare(2)
		if !ok {
			break
		}
		all = append(all, release)
	}
	if n := Process.InUse().Others; len(all) != 64 || n != 128 {
		t.Errorf("found %d pairs and %d descriptors, expected 64 and 128", len(all), n)
	}
	if n := fillBudget(); n != 1024-128-128 {
		t.Errorf("found room for %d connections, expected %d", n, 1024-128-128)
	} else {
		emptyBudget(n)
	}
	for _, release := range all {
		release()
	}
	release, ok := Process.Spare(2)
	if !ok {
		t.Fatal("found no room after all was given back")
	}
	release()
}
