package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// output is what a log wrote, for several goroutines.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// started is a service with its log.
func started(t *testing.T, role string, s settings) (*service, *httptest.Server, *output) {
	t.Helper()
	out := &output{}
	if s.callTimeout == 0 {
		s.callTimeout = 5 * time.Second
	}
	if s.storeTimeout == 0 {
		s.storeTimeout = 5 * time.Second
	}
	if s.poolWait == 0 {
		s.poolWait = 5 * time.Second
	}
	s.storePool, s.style = max(s.storePool, 1), styles[role]
	service := newService(role, s, newLog(out, role, s.style))
	server := httptest.NewUnstartedServer(service.handler())
	server.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, connectionKey{}, &connection{})
	}
	server.Start()
	t.Cleanup(server.Close)
	return service, server, out
}

// aStore listens until the test ends.
func aStore(t *testing.T, fault string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	service := newService("store", settings{faults: fault, storePool: 1}, newLog(io.Discard, "store", "sql"))
	server := &storeServer{service: service, values: map[string]string{}}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go server.talk(connection)
		}
	}()
	return listener.Addr().String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// aShop is all of it; the faults are by role.
func aShop(t *testing.T, faults map[string]string) (string, map[string]*output) {
	t.Helper()
	store := aStore(t, faults["store"])
	_, inventory, inventoryLog := started(t, "inventory", settings{store: store, warehouse: "north", faults: faults["inventory"]})
	_, payment, paymentLog := started(t, "payment", settings{store: store, provider: "bank", faults: faults["payment"]})
	_, checkout, checkoutLog := started(t, "checkout", settings{payment: payment.URL, inventory: inventory.URL, faults: faults["checkout"]})
	_, frontend, frontendLog := started(t, "frontend", settings{checkout: checkout.URL})
	return frontend.URL, map[string]*output{"inventory": inventoryLog, "payment": paymentLog, "checkout": checkoutLog, "frontend": frontendLog}
}

func TestAnOrderGoesThroughAllServices(t *testing.T) {
	url, logs := aShop(t, nil)
	for _, path := range []string{"/buy", "/products", "/"} {
		if code, body := get(t, url+path); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	for role, log := range logs {
		if strings.Contains(strings.ToLower(log.String()), "error") {
			t.Errorf("%s logged %s", role, log)
		}
	}
	if _, body := get(t, url+"/metrics"); !strings.Contains(body, `http_requests_total{path="/buy",code="200"} 1`) {
		t.Error(body)
	}
}

func TestAFailureShowsAtEveryHopInItsLanguage(t *testing.T) {
	url, logs := aShop(t, map[string]string{"payment": "status=503"})
	if code, _ := get(t, url+"/buy"); code != http.StatusBadGateway {
		t.Errorf("%d", code)
	}
	if code, _ := get(t, url+"/products"); code != http.StatusOK {
		t.Errorf("payment is not needed for that: %d", code)
	}
	for role, want := range map[string]string{
		"payment":  "\tat dev.shop.payment.PaymentController.dispatch",
		"checkout": "/charges answered 503",
		"frontend": "\n    at async handle (/app/frontend/server.js",
	} {
		if !strings.Contains(logs[role].String(), want) {
			t.Errorf("%s logged %s", role, logs[role])
		}
	}
}

func TestAStoreThatIsDownIsToldInJavaAndPython(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	store := listener.Addr().String()
	listener.Close()
	for role, want := range map[string]string{
		"payment":   "Caused by: java.net.ConnectException: Connection to 127.0.0.1:",
		"inventory": "ConnectionRefusedError: [Errno 111] Connection refused: 127.0.0.1:",
	} {
		path := map[string]string{"payment": "/charges", "inventory": "/stock"}[role]
		_, server, log := started(t, role, settings{store: store})
		if code, _ := get(t, server.URL+path); code != http.StatusBadGateway || !strings.Contains(log.String(), want) {
			t.Errorf("%s: %d, %s", role, code, log)
		}
	}
}

func TestAPoolThatIsTooSmallIsTold(t *testing.T) {
	_, server, log := started(t, "payment", settings{store: aStore(t, "delay=400ms"), storePool: 1, poolWait: 100 * time.Millisecond})
	var wait sync.WaitGroup
	for range 4 {
		wait.Add(1)
		go func() { defer wait.Done(); get(t, server.URL+"/charges") }()
	}
	wait.Wait()
	if !strings.Contains(log.String(), "HikariPool-1 - Connection is not available") {
		t.Error(log)
	}
}

func TestTraceHeadersArePassedOn(t *testing.T) {
	seen := make(chan http.Header, 1)
	next := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen <- r.Header }))
	defer next.Close()
	_, server, _ := started(t, "frontend", settings{checkout: next.URL})
	request, err := http.NewRequest(http.MethodGet, server.URL+"/buy", nil)
	if err != nil {
		t.Fatal(err)
	}
	trace := newTrace()
	request.Header.Set("traceparent", trace)
	request.Header.Set("x-request-id", "one")
	request.Header.Set("cookie", "secret")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	got := <-seen
	if got.Get("traceparent") != trace || got.Get("x-request-id") != "one" || got.Get("cookie") != "" {
		t.Error(got)
	}
}

func TestAKeptConnectionIsClosedOnItsSecondRequest(t *testing.T) {
	_, server, _ := started(t, "frontend", settings{faults: "close"})
	connection, err := net.Dial("tcp", strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	buffer := make([]byte, 4096)
	for i, want := range []bool{true, false} {
		if _, err := io.WriteString(connection, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		n, err := connection.Read(buffer)
		if answered := n > 0 && err == nil; answered != want {
			t.Errorf("request %d: %d bytes, %v", i+1, n, err)
		}
	}
}

func TestProbesFailWhenAsked(t *testing.T) {
	service, server, _ := started(t, "frontend", settings{})
	for fault, want := range map[string][2]int{"none": {200, 200}, "sick": {503, 200}, "busy": {200, 503}} {
		if err := service.faults.set(fault); err != nil {
			t.Fatal(err)
		}
		alive, _ := get(t, server.URL+"/healthz")
		ready, _ := get(t, server.URL+"/ready")
		if got := [2]int{alive, ready}; got != want {
			t.Errorf("%s: %v", fault, got)
		}
	}
}

func TestAMissingSettingIsNamed(t *testing.T) {
	_, err := readSettings("payment", func(name string) string {
		return map[string]string{"STORE_ADDRESS": "store:6400"}[name]
	})
	var missing missingSetting
	if !errors.As(err, &missing) || missing.name != "PAYMENT_PROVIDER" {
		t.Error(err)
	}
	if text := pythonText(err); text != "KeyError: 'PAYMENT_PROVIDER'" {
		t.Error(text)
	}
	_, err = readSettings("frontend", func(name string) string { return map[string]string{"CALL_TIMEOUT": "3"}[name] })
	var bad badSetting
	if !errors.As(err, &bad) || bad.name != "CALL_TIMEOUT" {
		t.Error(err)
	}
}
