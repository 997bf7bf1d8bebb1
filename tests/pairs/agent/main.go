// What runs in the pods of tests/pairs: it answers with what it received, and sends requests that it is told to send,
// each over a connection of its own and byte for byte as it was told.
//
//	:8080  HTTP    says which pod it is and what came in
//	:8443  HTTPS   the same, with a certificate of its own making
//	:9090  TCP     says which pod it is
//	:9999  HTTP    POST /ask sends requests
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Received is what a server saw of a request.
type Received struct {
	Pod     string            `json:"pod"`
	Host    string            `json:"host"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
}

// Told is a request to send.
type Told struct {
	Name    string            `json:"name"`
	Kind    string            `json:"kind"` // http, https, tcp
	Dial    string            `json:"dial"` // host:port
	Method  string            `json:"method"`
	Host    string            `json:"host"`
	Path    string            `json:"path"`
	SNI     string            `json:"sni"`
	Headers map[string]string `json:"headers"`
}

// Seen is what came of it: no status means no answer of HTTP.
type Seen struct {
	Name     string            `json:"name"`
	Status   int               `json:"status"`
	Error    string            `json:"error,omitempty"`
	Received *Received         `json:"received,omitempty"`
	Headers  map[string]string `json:"headers,omitempty"`
}

const patience = 12 * time.Second // longer than any time-out that is configured, and a connect time-out of a proxy

var pod = os.Getenv("POD_NAME")

func main() {
	go serveBytes()
	go func() { log.Fatal(http.ListenAndServe(":9999", http.HandlerFunc(ask))) }()
	go func() {
		server := &http.Server{Addr: ":8443", Handler: http.HandlerFunc(echo), TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate()}}}
		log.Fatal(server.ListenAndServeTLS("", ""))
	}()
	log.Fatal(http.ListenAndServe(":8080", http.HandlerFunc(echo)))
}

func joined(from http.Header) map[string]string {
	out := map[string]string{}
	for name, values := range from {
		out[strings.ToLower(name)] = strings.Join(values, ",")
	}
	return out
}

func echo(w http.ResponseWriter, r *http.Request) {
	if delay, err := time.ParseDuration(r.Header.Get("x-pair-delay")); err == nil {
		time.Sleep(min(delay, patience))
	}
	w.Header().Set("content-type", "application/json")
	w.Header().Set("x-from", "backend")
	if status, err := strconv.Atoi(r.Header.Get("x-pair-status")); err == nil && status >= 200 && status <= 599 {
		w.WriteHeader(status)
	}
	_ = json.NewEncoder(w).Encode(Received{Pod: pod, Host: r.Host, Path: r.RequestURI, Headers: joined(r.Header)})
}

func serveBytes() {
	listener, err := net.Listen("tcp", ":9090")
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := bufio.NewReader(io.LimitReader(conn, 4096)).ReadString('\n'); err == nil {
				_, _ = fmt.Fprintln(conn, pod)
			}
		}()
	}
}

func ask(w http.ResponseWriter, r *http.Request) {
	var told []Told
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&told); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	seen := make([]Seen, len(told))
	var wait sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i, one := range told {
		wait.Add(1)
		slots <- struct{}{}
		go func() {
			defer func() { <-slots; wait.Done() }()
			seen[i] = send(one)
		}()
	}
	wait.Wait()
	_ = json.NewEncoder(w).Encode(seen)
}

func send(told Told) Seen {
	seen := Seen{Name: told.Name}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", told.Dial)
	if err != nil {
		seen.Error = word(err)
		return seen
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if told.Kind == "tcp" {
		_, _ = io.WriteString(conn, "which pod?\n")
		line, err := bufio.NewReader(io.LimitReader(conn, 4096)).ReadString('\n')
		if err != nil {
			seen.Error = word(err)
			return seen
		}
		seen.Received = &Received{Pod: strings.TrimSpace(line)}
		return seen
	}
	if told.Kind == "https" {
		client := tls.Client(conn, &tls.Config{ServerName: told.SNI, InsecureSkipVerify: true}) //nolint:gosec // whoever answers is asked who it is
		if err := client.HandshakeContext(ctx); err != nil {
			seen.Error = word(err)
			return seen
		}
		conn = client
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nHost: %s\r\n", told.Method, told.Path, told.Host)
	for name, value := range told.Headers {
		fmt.Fprintf(&text, "%s: %s\r\n", name, value)
	}
	text.WriteString("Connection: close\r\n\r\n")
	if _, err := io.WriteString(conn, text.String()); err != nil {
		seen.Error = word(err)
		return seen
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: told.Method})
	if err != nil {
		seen.Error = word(err)
		return seen
	}
	defer answer.Body.Close()
	seen.Status, seen.Headers = answer.StatusCode, joined(answer.Header)
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	received := Received{}
	if json.Unmarshal(body, &received) == nil && received.Pod != "" {
		seen.Received = &received
	}
	return seen
}

func word(err error) string {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return "dns"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	}
	return "closed"
}

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{pod}}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}
