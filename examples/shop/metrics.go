package main

import (
	"fmt"
	"io"
	"runtime"
	"sort"
	"sync"
	"time"
)

// Upper bounds of the histograms, in seconds.
var buckets = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// maxSeries bounds the combinations of labels, which come from requests in part.
const maxSeries = 200

type histogram struct {
	counts []uint64
	sum    float64
	total  uint64
}

// metrics counts requests, and says so in the text format of Prometheus.
type metrics struct {
	mu      sync.Mutex
	server  map[[2]string]*histogram
	clients map[[2]string]uint64
}

func newMetrics() *metrics {
	return &metrics{server: map[[2]string]*histogram{}, clients: map[[2]string]uint64{}}
}

// served counts a request that was answered.
func (m *metrics) served(path, code string, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := [2]string{path, code}
	h := m.server[key]
	if h == nil {
		if len(m.server) >= maxSeries {
			return
		}
		h = &histogram{counts: make([]uint64, len(buckets))}
		m.server[key] = h
	}
	for i, bound := range buckets {
		if took.Seconds() <= bound {
			h.counts[i]++
		}
	}
	h.sum += took.Seconds()
	h.total++
}

// called counts a request that was made.
func (m *metrics) called(target, code string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := [2]string{target, code}
	if _, known := m.clients[key]; known || len(m.clients) < maxSeries {
		m.clients[key]++
	}
}

func sorted[V any](of map[[2]string]V) [][2]string {
	keys := make([][2]string, 0, len(of))
	for key := range of {
		keys = append(keys, key)
	}
	sort.Slice(keys, func(i, j int) bool { return keys[i][0]+"\x00"+keys[i][1] < keys[j][0]+"\x00"+keys[j][1] })
	return keys
}

func (m *metrics) write(out io.Writer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintln(out, "# HELP http_request_duration_seconds How long requests took that were answered.\n# TYPE http_request_duration_seconds histogram")
	for _, key := range sorted(m.server) {
		h, labels := m.server[key], fmt.Sprintf("path=%q,code=%q", key[0], key[1])
		for i, bound := range buckets {
			fmt.Fprintf(out, "http_request_duration_seconds_bucket{%s,le=\"%g\"} %d\n", labels, bound, h.counts[i])
		}
		fmt.Fprintf(out, "http_request_duration_seconds_bucket{%s,le=\"+Inf\"} %d\n", labels, h.total)
		fmt.Fprintf(out, "http_request_duration_seconds_sum{%s} %g\n", labels, h.sum)
		fmt.Fprintf(out, "http_request_duration_seconds_count{%s} %d\n", labels, h.total)
	}
	fmt.Fprintln(out, "# HELP http_requests_total Requests that were answered.\n# TYPE http_requests_total counter")
	for _, key := range sorted(m.server) {
		fmt.Fprintf(out, "http_requests_total{path=%q,code=%q} %d\n", key[0], key[1], m.server[key].total)
	}
	fmt.Fprintln(out, "# HELP http_client_requests_total Requests that were made, by target and outcome.\n# TYPE http_client_requests_total counter")
	for _, key := range sorted(m.clients) {
		fmt.Fprintf(out, "http_client_requests_total{target=%q,code=%q} %d\n", key[0], key[1], m.clients[key])
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	fmt.Fprintf(out, "# HELP go_memstats_heap_alloc_bytes Bytes of the heap in use.\n# TYPE go_memstats_heap_alloc_bytes gauge\ngo_memstats_heap_alloc_bytes %d\n", memory.HeapAlloc)
}
