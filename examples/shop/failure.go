package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
)

// What can go wrong with a call, as far as callers tell it apart.
const (
	refused  = "refused"
	noName   = "no name"
	timedOut = "timed out"
	reset    = "reset"
	answered = "answered"
	noTurn   = "no turn"
	asked    = "asked for"
	other    = "other"
)

// failure is a call that failed, with what a stack trace says of it.
type failure struct {
	kind   string
	method string
	target string // the URL, or the address of the store
	status int    // for answered
	size   int    // of the pool, for noTurn
	err    error
}

func (f *failure) Error() string {
	switch f.kind {
	case answered:
		return fmt.Sprintf("%s %s answered %d", f.method, f.target, f.status)
	case asked:
		return "fault asked for"
	default:
		return fmt.Sprintf("%s %s: %v", f.method, f.target, f.err)
	}
}

func (f *failure) Unwrap() error { return f.err }

// host is the name and port that was called.
func (f *failure) host() (string, string) {
	address := f.target
	if u, err := url.Parse(f.target); err == nil && u.Host != "" {
		address = u.Host
		if u.Port() == "" {
			address += ":80"
		}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address, "80"
	}
	return host, port
}

// path is what was asked for on it.
func (f *failure) path() string {
	if u, err := url.Parse(f.target); err == nil && u.Host != "" {
		return u.Path
	}
	return ""
}

// classify tells what an error of the network means.
func classify(method, target string, err error) *failure {
	f := &failure{kind: other, method: method, target: target, err: err}
	var dns *net.DNSError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &dns) && dns.IsNotFound: // a look-up that was given up is none
		f.kind = noName
	case errors.Is(err, syscall.ECONNREFUSED):
		f.kind = refused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		f.kind = timedOut
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.EPIPE), strings.Contains(err.Error(), "closed network connection"):
		f.kind = reset
	}
	return f
}
