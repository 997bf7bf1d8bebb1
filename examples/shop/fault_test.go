package main

import (
	"testing"
	"time"
)

func TestAFaultIsReadAndWritten(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "none",
		"none":                       "none",
		"status=503,share=0.5":       "share=0.5,status=503",
		"delay=2s burn=20ms":         "burn=20ms,delay=2s",
		"leak=512Ki,crash=3,limit=2": "crash=3,leak=524288,limit=2",
		"close,sick=true,busy=false": "close=true,sick=true",
		"start=20s\nlog":             "log=true,start=20s",
	} {
		f, err := parseFault(text)
		if err != nil || f.String() != want {
			t.Errorf("%q: %v, %v; want %s", text, f, err, want)
		}
		again, err := parseFault(f.String())
		if err != nil || again != f {
			t.Errorf("%q: %v is read again as %v, %v", text, f, again, err)
		}
	}
}

func TestWhatIsNoFaultIsRefused(t *testing.T) {
	for _, text := range []string{"statsu=503", "status=99", "status=x", "share=2", "share=NaN", "delay=2", "leak=-1", "leak=1Gi", "close=perhaps"} {
		if f, err := parseFault(text); err == nil {
			t.Errorf("%q is taken as %v", text, f)
		}
	}
}

func TestTheCrashComesAtItsRequest(t *testing.T) {
	var f faults
	if err := f.set("crash=3"); err != nil {
		t.Fatal(err)
	}
	for request, want := range []bool{false, false, true, false} {
		if got := f.crashes(); got != want {
			t.Errorf("request %d: %v", request+1, got)
		}
	}
}

func TestABadFaultChangesNothing(t *testing.T) {
	var f faults
	if err := f.set("delay=1s"); err != nil {
		t.Fatal(err)
	}
	if err := f.set("dealy=2s"); err == nil || f.now().delay != time.Second {
		t.Errorf("%v, %v", err, f.now())
	}
}
