package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxInFlight bounds the requests under way; what comes on top counts as dropped.
const maxInFlight = 64

// span is what the load generator saw in a while.
type span struct {
	Time    string         `json:"time"`
	Level   string         `json:"level"`
	Message string         `json:"msg"`
	Seconds int            `json:"seconds"`
	Sent    int            `json:"sent"`
	OK      int            `json:"ok"`
	Failed  int            `json:"failed"`
	Codes   map[string]int `json:"codes"`
	P50     int64          `json:"p50_ms"`
	P95     int64          `json:"p95_ms"`
	Max     int64          `json:"max_ms"`
}

// observations collects outcomes for the next span.
type observations struct {
	mu    sync.Mutex
	codes map[string]int
	took  []time.Duration
}

func (o *observations) add(code string, took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.codes[code]++
	o.took = append(o.took, took)
}

// take gives what was seen since the last time.
func (o *observations) take(now time.Time, seconds int) span {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := span{Time: now.UTC().Format(time.RFC3339Nano), Level: "INFO", Message: "what users saw", Seconds: seconds, Codes: o.codes}
	for code, n := range o.codes {
		s.Sent += n
		if len(code) == 3 && code < "400" {
			s.OK += n
		}
	}
	s.Failed = s.Sent - s.OK
	slices.Sort(o.took)
	if n := len(o.took); n > 0 {
		s.P50, s.P95, s.Max = o.took[n/2].Milliseconds(), o.took[n*95/100].Milliseconds(), o.took[n-1].Milliseconds()
	}
	o.codes, o.took = map[string]int{}, nil
	return s
}

// load plays the users. Settings: RATE requests a second (3), PATHS in turn (/buy,/products,/), HOST to ask for instead
// of the URL's (for gateways), REPORT seconds between two lines of the log (2), LISTEN for metrics (:8080).
func load(ctx context.Context, urls []string) error {
	if len(urls) == 0 {
		return errors.New("shop load: which URL?")
	}
	number := func(name string, otherwise float64) float64 {
		value, err := strconv.ParseFloat(os.Getenv(name), 64)
		if err != nil || value <= 0 {
			return otherwise
		}
		return value
	}
	text := func(name, otherwise string) string {
		if value := os.Getenv(name); value != "" {
			return value
		}
		return otherwise
	}
	var targets []string
	for _, path := range strings.Split(text("PATHS", "/buy,/products,/"), ",") {
		for _, base := range urls {
			targets = append(targets, strings.TrimSuffix(base, "/")+path)
		}
	}
	metrics := newMetrics()
	http.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) { metrics.write(w) })
	http.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { answerProbe(w, false) })
	server := &http.Server{Addr: text("LISTEN", ":8080"), ReadHeaderTimeout: time.Second}
	go func() {
		if err := server.ListenAndServe(); err != nil {
			fmt.Fprintln(os.Stderr, "no metrics:", err)
		}
	}()

	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: maxInFlight}}
	seen := &observations{codes: map[string]int{}}
	inFlight := make(chan struct{}, maxInFlight)
	every := time.Duration(number("REPORT", 2) * float64(time.Second))
	tick, report := time.NewTicker(time.Duration(float64(time.Second)/number("RATE", 3))), time.NewTicker(every)
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-report.C:
			line, _ := json.Marshal(seen.take(time.Now(), int(every.Seconds())))
			fmt.Println(string(line))
			client.CloseIdleConnections()
			i--
		case <-tick.C:
			select {
			case inFlight <- struct{}{}:
			default:
				seen.add("dropped", 0)
				continue
			}
			go func() {
				defer func() { <-inFlight }()
				start := time.Now()
				code := ask(ctx, client, targets[i%len(targets)], os.Getenv("HOST"))
				seen.add(code, time.Since(start))
				metrics.called(urls[0], code)
			}()
		}
	}
}

// ask makes one request as a user, and gives the code, or what went wrong in a word.
func ask(ctx context.Context, client *http.Client, target, host string) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return other
	}
	if host != "" {
		request.Host = host
	}
	trace := newTrace()
	request.Header.Set("Traceparent", trace)
	request.Header.Set("X-Request-Id", trace[3:35])
	response, err := client.Do(request)
	if err != nil {
		return classify(http.MethodGet, target, err).kind
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20)); err != nil {
		return reset
	}
	return strconv.Itoa(response.StatusCode)
}
