package main

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// fault is how a service misbehaves. The zero value is a service that is well.
type fault struct {
	status int           // answers with this code
	share  float64       // of the requests that status and delay are for
	delay  time.Duration // answers later by this
	leak   int64         // bytes that each request keeps for good
	burn   time.Duration // processor time that each request takes
	crash  int           // requests until the program ends; 0 is never
	close  bool          // closes a kept-alive connection on its second request
	start  time.Duration // before it listens
	sick   bool          // fails its liveness probe
	busy   bool          // fails its readiness probe
	log    bool          // logs an error with a stack trace for each request, and answers well
	limit  int           // connections that the store takes; 0 is any number
}

// parseFault reads "status=503,share=0.5,delay=2s". Nothing and "none" are no fault.
func parseFault(text string) (fault, error) {
	f := fault{share: 1}
	text = strings.TrimSpace(text)
	if text == "" || text == "none" {
		return f, nil
	}
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		name, value, _ := strings.Cut(part, "=")
		var err error
		switch name {
		case "status":
			f.status, err = strconv.Atoi(value)
			if err == nil && (f.status < 100 || f.status > 599) {
				err = fmt.Errorf("100 to 599")
			}
		case "share":
			f.share, err = strconv.ParseFloat(value, 64)
			if err == nil && !(f.share >= 0 && f.share <= 1) {
				err = fmt.Errorf("0 to 1")
			}
		case "delay":
			f.delay, err = time.ParseDuration(value)
		case "leak":
			f.leak, err = parseBytes(value)
		case "burn":
			f.burn, err = time.ParseDuration(value)
		case "crash":
			f.crash, err = strconv.Atoi(value)
		case "close":
			f.close, err = onOrOff(value)
		case "start":
			f.start, err = time.ParseDuration(value)
		case "sick":
			f.sick, err = onOrOff(value)
		case "busy":
			f.busy, err = onOrOff(value)
		case "log":
			f.log, err = onOrOff(value)
		case "limit":
			f.limit, err = strconv.Atoi(value)
		default:
			return fault{share: 1}, fmt.Errorf("there is no fault %q", name)
		}
		if err != nil {
			return fault{share: 1}, fmt.Errorf("fault %s=%s: %w", name, value, err)
		}
	}
	return f, nil
}

// onOrOff reads a switch; its name alone switches it on.
func onOrOff(value string) (bool, error) {
	if value == "" {
		return true, nil
	}
	return strconv.ParseBool(value)
}

// parseBytes reads "512Ki" or "4Mi".
func parseBytes(text string) (int64, error) {
	unit := int64(1)
	for suffix, size := range map[string]int64{"Ki": 1 << 10, "Mi": 1 << 20} {
		if number, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = number, size
		}
	}
	number, err := strconv.ParseInt(text, 10, 32)
	if err == nil && number < 0 {
		err = fmt.Errorf("not below 0")
	}
	return number * unit, err
}

// String is the form that parseFault reads.
func (f fault) String() string {
	var parts []string
	add := func(name string, set bool, value any) {
		if set {
			parts = append(parts, fmt.Sprintf("%s=%v", name, value))
		}
	}
	add("status", f.status != 0, f.status)
	add("share", f.share != 1, f.share)
	add("delay", f.delay != 0, f.delay)
	add("leak", f.leak != 0, f.leak)
	add("burn", f.burn != 0, f.burn)
	add("crash", f.crash != 0, f.crash)
	add("close", f.close, f.close)
	add("start", f.start != 0, f.start)
	add("sick", f.sick, f.sick)
	add("busy", f.busy, f.busy)
	add("log", f.log, f.log)
	add("limit", f.limit != 0, f.limit)
	if len(parts) == 0 {
		return "none"
	}
	sort.Strings(parts)
	return strings.Join(parts, ",")
}

// hit says whether a request is among those that status and delay are for.
func (f fault) hit() bool { return f.share >= 1 || rand.Float64() < f.share }

// faults is the fault of the moment.
type faults struct {
	mu    sync.Mutex
	fault fault
}

func (f *faults) now() fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fault
}

func (f *faults) set(text string) error {
	parsed, err := parseFault(text)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = parsed
	return nil
}

// crashes counts a request towards the crash, and says whether it is the one.
func (f *faults) crashes() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fault.crash == 0 {
		return false
	}
	f.fault.crash--
	return f.fault.crash == 0
}
