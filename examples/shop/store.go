package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The store speaks a protocol of lines over TCP: "GET key" and "PUT key value" are answered with "OK value" or
// "ERR reason". It keeps what it is given in memory.

// storeServer is the database.
type storeServer struct {
	service *service
	clients atomic.Int64
	mu      sync.Mutex
	values  map[string]string
}

// maxKeys bounds what the store remembers; it is a demo.
const maxKeys = 10_000

// lineTimeout is how long a connection may be idle.
const lineTimeout = 5 * time.Minute

func (s *storeServer) serve(ctx context.Context, address string) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	go func() { <-ctx.Done(); listener.Close() }()
	s.service.log.info("database system is ready to accept connections")
	for {
		connection, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go s.talk(connection)
	}
}

func (s *storeServer) talk(connection net.Conn) {
	defer connection.Close()
	defer s.clients.Add(-1)
	if limit := s.service.faults.now().limit; s.clients.Add(1) > int64(limit) && limit > 0 {
		s.service.log.write(s.service.log.line("FATAL", "sorry, too many clients already"))
		fmt.Fprintln(connection, "ERR sorry, too many clients already")
		return
	}
	lines := bufio.NewScanner(connection)
	for {
		connection.SetReadDeadline(time.Now().Add(lineTimeout))
		if !lines.Scan() {
			return
		}
		answer := s.answer(lines.Text())
		if _, err := fmt.Fprintln(connection, answer); err != nil {
			return
		}
	}
}

func (s *storeServer) answer(line string) string {
	start := time.Now()
	f := s.service.misbehave()
	verb, rest, _ := strings.Cut(line, " ")
	key, value, _ := strings.Cut(rest, " ")
	hit := f.hit()
	if f.delay > 0 && hit {
		time.Sleep(f.delay)
	}
	code := "ok"
	defer func() { s.service.metrics.served(verb, code, time.Since(start)) }()
	if f.status >= 400 && hit {
		code = "error"
		s.service.log.write(s.service.log.line("ERROR", "could not read block 17 of relation \"orders\": fault asked for"))
		return "ERR could not read block 17 of relation \"orders\""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case verb == "GET":
		return "OK " + s.values[key]
	case verb == "PUT" && (len(s.values) < maxKeys || s.values[key] != ""):
		s.values[key] = value
		return "OK"
	case verb == "PUT":
		code = "error"
		return "ERR out of space"
	default:
		code = "error"
		return "ERR unknown command"
	}
}

// storeClient keeps some connections to the store, and lets callers wait for one.
type storeClient struct {
	address string
	timeout time.Duration
	wait    time.Duration
	turns   chan struct{}
	idle    chan net.Conn
}

func newStoreClient(address string, size int, timeout, wait time.Duration) *storeClient {
	return &storeClient{address: address, timeout: timeout, wait: wait, turns: make(chan struct{}, size), idle: make(chan net.Conn, size)}
}

// ask sends one line and gives what follows OK.
func (c *storeClient) ask(ctx context.Context, line string) (string, error) {
	verb, _, _ := strings.Cut(line, " ")
	wait := time.NewTimer(c.wait)
	defer wait.Stop()
	select {
	case c.turns <- struct{}{}:
		defer func() { <-c.turns }()
	case <-wait.C:
		return "", &failure{kind: noTurn, method: verb, target: c.address, size: cap(c.turns),
			err: fmt.Errorf("no connection of the pool became free in %s (size %d, all in use)", c.wait, cap(c.turns))}
	case <-ctx.Done():
		return "", classify(verb, c.address, ctx.Err())
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	select {
	case kept := <-c.idle:
		answer, err := c.talk(ctx, kept, line)
		var f *failure
		// A connection that had been kept may be gone by now; what went over it then was not carried out.
		if err == nil || !errors.As(err, &f) || f.kind != reset {
			return answer, err
		}
	default:
	}
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.address)
	if err != nil {
		return "", classify(verb, c.address, err)
	}
	return c.talk(ctx, connection, line)
}

// closeIdle closes the connections that nobody uses.
func (c *storeClient) closeIdle() {
	for {
		select {
		case connection := <-c.idle:
			connection.Close()
		default:
			return
		}
	}
}

func (c *storeClient) talk(ctx context.Context, connection net.Conn, line string) (string, error) {
	verb, _, _ := strings.Cut(line, " ")
	deadline, _ := ctx.Deadline()
	connection.SetDeadline(deadline)
	_, err := fmt.Fprintln(connection, line)
	var answer string
	if err == nil {
		answer, err = bufio.NewReader(connection).ReadString('\n')
	}
	if err != nil {
		connection.Close()
		return "", classify(verb, c.address, err)
	}
	select {
	case c.idle <- connection:
	default:
		connection.Close()
	}
	answer = strings.TrimSpace(answer)
	if reason, bad := strings.CutPrefix(answer, "ERR "); bad {
		return "", &failure{kind: other, method: verb, target: c.address, err: errors.New(reason)}
	}
	value, good := strings.CutPrefix(answer, "OK")
	if !good { // something in between that speaks another protocol
		return "", &failure{kind: other, method: verb, target: c.address, err: fmt.Errorf("unexpected answer %q", answer)}
	}
	return strings.TrimSpace(value), nil
}
