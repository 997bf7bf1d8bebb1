package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestTheLoadCountsWhatUsersSaw(t *testing.T) {
	seen := &observations{codes: map[string]int{}}
	for _, took := range []int{10, 20, 30, 40} {
		seen.add("200", time.Duration(took)*time.Millisecond)
	}
	seen.add("503", time.Second)
	seen.add(timedOut, 5*time.Second)
	s := seen.take(time.Unix(0, 0), 2)
	if s.Sent != 6 || s.OK != 4 || s.Failed != 2 || s.P50 != 40 || s.Max != 5000 {
		t.Errorf("%+v", s)
	}
	if s := seen.take(time.Unix(2, 0), 2); s.Sent != 0 || s.P95 != 0 {
		t.Errorf("counted twice: %+v", s)
	}
}

func TestAUserAsksForTheHost(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "shop.example.com" || r.Header.Get("traceparent") == "" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	if code := ask(context.Background(), server.Client(), server.URL, "shop.example.com"); code != "200" {
		t.Error(code)
	}
	server.Close()
	if code := ask(context.Background(), &http.Client{}, server.URL, ""); code != refused {
		t.Error(code)
	}
}
