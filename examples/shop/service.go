package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// storePort is where the store takes its own protocol; its health and metrics are on the port of all others.
const storePort = ":6400"

// What a service hands on with the calls that it makes for a request, so that traces join up.
var passedOn = []string{"Traceparent", "Tracestate", "Baggage", "X-Request-Id", "X-B3-Traceid", "X-B3-Spanid",
	"X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags", "X-Ot-Span-Context", "X-User"}

// service is one of the shop's services.
type service struct {
	role     string
	settings settings
	log      *logger
	metrics  *metrics
	faults   faults
	client   *http.Client
	store    *storeClient

	mu   sync.Mutex
	kept [][]byte // what it leaks
}

func newService(role string, s settings, log *logger) *service {
	out := &service{role: role, settings: s, log: log, metrics: newMetrics()}
	out.client = &http.Client{Timeout: s.callTimeout, Transport: &http.Transport{
		MaxConnsPerHost: s.connections, MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second,
	}}
	out.store = newStoreClient(s.store, s.storePool, s.storeTimeout, s.poolWait)
	// It was read once already, when the settings were.
	_ = out.faults.set(s.faults)
	return out
}

// request counts the requests of a connection.
type connectionKey struct{}
type connection struct{ requests int }

func (s *service) serve(ctx context.Context) error {
	server := &http.Server{
		Addr: s.settings.listen, Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 5 * time.Minute,
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, &connection{})
		},
	}
	go s.renew(ctx)
	go func() {
		<-ctx.Done()
		patience, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		server.Shutdown(patience)
	}()
	if s.role == "store" {
		store := &storeServer{service: s, values: map[string]string{}}
		go func() {
			if err := store.serve(ctx, storePort); err != nil {
				s.log.die(err)
			}
		}()
	} else {
		s.log.info(s.role + " " + s.settings.version + " listens on " + s.settings.listen)
	}
	return server.ListenAndServe()
}

// renew closes idle connections again and again, so that a change to a Service is felt within seconds: a connection
// that is kept goes on to the pod that it once found.
func (s *service) renew(ctx context.Context) {
	tick := time.NewTicker(s.settings.connectionLife)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.client.CloseIdleConnections()
			s.store.closeIdle()
		}
	}
}

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { answerProbe(w, s.faults.now().sick) })
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { answerProbe(w, s.faults.now().busy) })
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		s.metrics.write(w)
	})
	route := func(path string, work func(context.Context, http.Header) (any, error)) {
		mux.HandleFunc(path, s.instrumented(path, work))
	}
	switch s.role {
	case "frontend":
		route("/{$}", func(context.Context, http.Header) (any, error) { return "welcome", nil })
		route("/buy", func(ctx context.Context, h http.Header) (any, error) {
			return s.call(ctx, h, http.MethodPost, s.settings.checkout+"/orders")
		})
		route("/products", func(ctx context.Context, h http.Header) (any, error) {
			return s.call(ctx, h, http.MethodGet, s.settings.checkout+"/quotes")
		})
	case "checkout":
		route("/orders", func(ctx context.Context, h http.Header) (any, error) {
			stock, err := s.call(ctx, h, http.MethodPost, s.settings.inventory+"/reservations")
			if err != nil {
				return nil, err
			}
			paid, err := s.call(ctx, h, http.MethodPost, s.settings.payment+"/charges")
			return []any{stock, paid}, err
		})
		route("/quotes", func(ctx context.Context, h http.Header) (any, error) {
			return s.call(ctx, h, http.MethodGet, s.settings.inventory+"/stock")
		})
	case "payment":
		route("/charges", func(ctx context.Context, _ http.Header) (any, error) {
			return s.ask(ctx, "PUT charge-"+strconv.FormatInt(time.Now().UnixMilli()%1000, 10)+" "+s.settings.provider)
		})
	case "inventory":
		route("/reservations", func(ctx context.Context, _ http.Header) (any, error) {
			return s.ask(ctx, "PUT stock-"+s.settings.warehouse+" reserved")
		})
		route("/stock", func(ctx context.Context, _ http.Header) (any, error) {
			return s.ask(ctx, "GET stock-"+s.settings.warehouse)
		})
	}
	return mux
}

func answerProbe(w http.ResponseWriter, bad bool) {
	if bad {
		http.Error(w, "no", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// instrumented does what every request has in common: faults, the answer, the log, the metrics.
func (s *service) instrumented(path string, work func(context.Context, http.Header) (any, error)) http.HandlerFunc {
	path = strings.TrimSuffix(path, "{$}")
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		header := r.Header.Clone()
		if header.Get("Traceparent") == "" {
			header.Set("Traceparent", newTrace())
		}
		f := s.misbehave()
		if f.close && s.closes(w, r) {
			return
		}
		hit := f.hit()
		if f.delay > 0 && hit {
			time.Sleep(f.delay)
		}
		var result any
		var err error
		if f.status >= 400 && hit {
			err = &failure{kind: asked, status: f.status}
		} else {
			result, err = work(r.Context(), header)
		}
		code := statusOf(err)
		body := map[string]any{"service": s.role, "version": s.settings.version}
		what := r.Method + " " + path
		if err != nil {
			body["error"] = err.Error()
			s.log.failed(what, traceID(header), err)
		} else if result != nil {
			body["result"] = result
		}
		if f.log && err == nil {
			s.log.failed(what, traceID(header), &failure{kind: asked})
		}
		if s.role == "frontend" {
			s.log.info(fmt.Sprintf("%s %d %d ms", what, code, time.Since(start).Milliseconds()))
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		// Whoever is gone by now does not miss it.
		_ = json.NewEncoder(w).Encode(body)
		s.metrics.served(path, strconv.Itoa(code), time.Since(start))
	}
}

// misbehave does what the faults ask of every request, and gives the fault of the moment.
func (s *service) misbehave() fault {
	if s.faults.crashes() {
		s.log.die(errors.New("index 7 out of range for 7 order lines"))
	}
	f := s.faults.now()
	if f.leak > 0 {
		block := make([]byte, f.leak)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		s.mu.Lock()
		s.kept = append(s.kept, block)
		s.mu.Unlock()
	}
	burn(f.burn)
	return f
}

// burn takes processor time, not time: on a throttled processor it lasts longer.
func burn(amount time.Duration) {
	// A block takes 100 µs, and a third of that where the processor has instructions for it.
	block := make([]byte, 64<<10)
	for range amount / (100 * time.Microsecond) {
		sum := sha256.Sum256(block)
		copy(block, sum[:])
	}
}

// closes ends a connection without an answer when a second request comes on it, as a server does whose patience with
// idle connections is shorter than its client's.
func (s *service) closes(w http.ResponseWriter, r *http.Request) bool {
	c, known := r.Context().Value(connectionKey{}).(*connection)
	if !known {
		return false
	}
	if c.requests++; c.requests < 2 {
		return false
	}
	hijacker, can := w.(http.Hijacker)
	if !can {
		return false
	}
	raw, _, err := hijacker.Hijack()
	if err != nil {
		return false
	}
	raw.Close()
	return true
}

// statusOf is the code that a service answers with when a call of its own failed.
func statusOf(err error) int {
	var f *failure
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, &f) && f.kind == asked:
		return f.status
	case errors.As(err, &f) && f.kind == timedOut:
		return http.StatusGatewayTimeout
	case errors.As(err, &f) && f.kind == noTurn:
		return http.StatusServiceUnavailable
	default:
		return http.StatusBadGateway
	}
}

// call asks another service.
func (s *service) call(ctx context.Context, header http.Header, method, target string) (any, error) {
	request, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, &failure{kind: other, method: method, target: target, err: err}
	}
	for _, name := range passedOn {
		if value := header.Get(name); value != "" {
			request.Header.Set(name, value)
		}
	}
	response, err := s.client.Do(request)
	if err != nil {
		f := classify(method, target, err)
		s.metrics.called(request.URL.Host, f.kind)
		return nil, f
	}
	defer response.Body.Close()
	s.metrics.called(request.URL.Host, strconv.Itoa(response.StatusCode))
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	if err != nil {
		return nil, classify(method, target, err)
	}
	if response.StatusCode >= 400 {
		return nil, &failure{kind: answered, method: method, target: target, status: response.StatusCode}
	}
	var result any
	if json.Unmarshal(body, &result) != nil {
		return string(body), nil
	}
	return result, nil
}

// ask asks the store.
func (s *service) ask(ctx context.Context, line string) (any, error) {
	answer, err := s.store.ask(ctx, line)
	if err != nil {
		s.metrics.called(s.settings.store, classify("", s.settings.store, err).kind)
		return nil, err
	}
	s.metrics.called(s.settings.store, "ok")
	return answer, nil
}

// newTrace starts a trace, in the form of W3C's header.
func newTrace() string {
	var id [24]byte
	// It never fails.
	_, _ = rand.Read(id[:])
	return "00-" + hex.EncodeToString(id[:16]) + "-" + hex.EncodeToString(id[16:]) + "-01"
}

// traceID is the identifier of the trace that a request belongs to.
func traceID(header http.Header) string {
	parts := strings.Split(header.Get("Traceparent"), "-")
	if len(parts) < 2 {
		return ""
	}
	return parts[1]
}
