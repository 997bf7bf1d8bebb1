package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// logger writes as a program of some language would: Go's JSON, a Java framework, Python, Node, or an SQL server.
type logger struct {
	mu    sync.Mutex
	out   io.Writer
	role  string
	style string
	clock func() time.Time
}

func newLog(out io.Writer, role, style string) *logger {
	return &logger{out: out, role: role, style: style, clock: time.Now}
}

// write puts out whole lines at once, so that those of two requests never mix.
func (l *logger) write(lines ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(l.out, strings.Join(lines, "\n"))
}

func (l *logger) info(message string) { l.write(l.line("INFO", message)) }

// failed logs what went wrong with a request, with the stack trace of the language.
func (l *logger) failed(what, trace string, err error) {
	message := what + " failed"
	if l.style == "go" {
		l.write(l.json("ERROR", message, map[string]string{"error": goText(err), "trace_id": trace}))
		return
	}
	l.write(append([]string{l.line("ERROR", message)}, l.stack(err, what)...)...)
}

// die ends the program the way the language ends it when a setting is missing or nothing catches an error.
func (l *logger) die(err error) {
	code := 1
	switch l.style {
	case "go":
		code = 2
		l.write("panic: "+goText(err), "", "goroutine 1 [running]:", "main.main()", fmt.Sprintf("\t/src/%s/main.go:31 +0x1d4", l.role))
	case "java":
		l.write(append([]string{l.line("ERROR", "Application run failed"), "java.lang.IllegalStateException: Failed to start " + l.role},
			append(javaFrames(l.role, "Application", "main"), javaCause(err)...)...)...)
	default:
		l.write(l.stack(err, "start")...)
	}
	os.Exit(code)
}

// line is one line of the style.
func (l *logger) line(level, message string) string {
	now := l.clock().UTC()
	switch l.style {
	case "java":
		return fmt.Sprintf("%s %5s 1 --- [nio-8080-exec-%d] %-36s : %s",
			now.Format("2006-01-02T15:04:05.000Z"), level, now.Second()%10+1, "dev.shop."+l.role+"."+title(l.role)+"Controller", message)
	case "python":
		return fmt.Sprintf("%s %s %s.views: %s", now.Format("2006-01-02 15:04:05,000"), level, l.role, message)
	case "node":
		return fmt.Sprintf("[%s] %s %s: %s", now.Format("2006-01-02T15:04:05.000Z"), strings.ToLower(level), l.role, message)
	case "sql":
		if level == "INFO" {
			level = "LOG"
		}
		return fmt.Sprintf("%s UTC [1] %s:  %s", now.Format("2006-01-02 15:04:05.000"), level, message)
	default:
		return l.json(level, message, nil)
	}
}

func (l *logger) json(level, message string, more map[string]string) string {
	line := map[string]string{"time": l.clock().UTC().Format(time.RFC3339Nano), "level": level, "service": l.role, "msg": message}
	for name, value := range more {
		if value != "" {
			line[name] = value
		}
	}
	text, _ := json.Marshal(line)
	return string(text)
}

// stack is how the language shows an error below the line that tells of it.
func (l *logger) stack(err error, what string) []string {
	switch l.style {
	case "java":
		lines := append([]string{"dev.shop." + l.role + "." + title(l.role) + "Exception: " + what + " failed"},
			javaFrames(l.role, title(l.role)+"Service", "handle")...)
		return append(lines, javaCause(err)...)
	case "python":
		return append([]string{
			"Traceback (most recent call last):",
			fmt.Sprintf("  File \"/app/%s/views.py\", line 41, in handle", l.role),
			"    return self.dispatch(request)",
			fmt.Sprintf("  File \"/app/%s/models.py\", line 87, in query", l.role),
			"    return self.pool.get().execute(statement)",
		}, pythonText(err))
	case "node":
		return []string{nodeText(err), "    at process.processTicksAndRejections (node:internal/process/task_queues:105:5)",
			fmt.Sprintf("    at async handle (/app/%s/server.js:58:18)", l.role), fmt.Sprintf("    at async /app/%s/router.js:23:5", l.role)}
	case "sql":
		return []string{l.line("FATAL", goText(err))}
	default:
		return []string{goText(err)}
	}
}

func title(word string) string { return strings.ToUpper(word[:1]) + word[1:] }

func goText(err error) string { return err.Error() }

func javaFrames(role, class, method string) []string {
	return []string{
		fmt.Sprintf("\tat dev.shop.%s.%s.%s(%s.java:64)", role, class, method, class),
		fmt.Sprintf("\tat dev.shop.%s.%sController.dispatch(%sController.java:38)", role, title(role), title(role)),
		"\tat org.springframework.web.servlet.FrameworkServlet.service(FrameworkServlet.java:885)",
		"\tat java.base/java.lang.Thread.run(Thread.java:1583)",
	}
}

func javaCause(err error) []string {
	return []string{"Caused by: " + javaText(err), "\tat java.base/sun.nio.ch.Net.pollConnect(Native Method)", "\t... 12 common frames omitted"}
}

// javaText says an error as Java's libraries do.
func javaText(err error) string {
	var f *failure
	if !errors.As(err, &f) {
		return "java.lang.IllegalStateException: " + err.Error()
	}
	host, port := f.host()
	switch f.kind {
	case refused:
		return fmt.Sprintf("java.net.ConnectException: Connection to %s:%s refused", host, port)
	case noName:
		return "java.net.UnknownHostException: " + host
	case timedOut:
		return fmt.Sprintf("java.net.SocketTimeoutException: Read timed out (%s:%s)", host, port)
	case reset:
		return fmt.Sprintf("java.net.SocketException: Connection reset (%s:%s)", host, port)
	case noTurn:
		return fmt.Sprintf("java.sql.SQLTransientConnectionException: HikariPool-1 - Connection is not available, request timed out after 1000ms (total=%d, active=%d, idle=0)", f.size, f.size)
	default:
		return "java.lang.IllegalStateException: " + err.Error()
	}
}

// pythonText says an error as Python's libraries do.
func pythonText(err error) string {
	var f *failure
	if !errors.As(err, &f) {
		var missing missingSetting
		if errors.As(err, &missing) {
			return fmt.Sprintf("KeyError: '%s'", missing.name)
		}
		return "RuntimeError: " + err.Error()
	}
	host, port := f.host()
	switch f.kind {
	case refused:
		return fmt.Sprintf("ConnectionRefusedError: [Errno 111] Connection refused: %s:%s", host, port)
	case noName:
		return fmt.Sprintf("socket.gaierror: [Errno -2] Name or service not known: '%s'", host)
	case timedOut:
		return fmt.Sprintf("TimeoutError: timed out reading from %s:%s", host, port)
	case reset:
		return fmt.Sprintf("ConnectionResetError: [Errno 104] Connection reset by peer: %s:%s", host, port)
	case noTurn:
		return fmt.Sprintf("sqlalchemy.exc.TimeoutError: QueuePool limit of size %d overflow 0 reached, connection timed out, timeout 1.00", f.size)
	default:
		return "RuntimeError: " + err.Error()
	}
}

// nodeText says an error as Node's libraries do.
func nodeText(err error) string {
	var f *failure
	if !errors.As(err, &f) {
		return "Error: " + err.Error()
	}
	host, port := f.host()
	switch f.kind {
	case refused:
		return fmt.Sprintf("Error: connect ECONNREFUSED %s:%s", host, port)
	case noName:
		return "Error: getaddrinfo ENOTFOUND " + host
	case timedOut:
		return fmt.Sprintf("Error: %s %s: timeout of the request exceeded (ETIMEDOUT)", f.method, f.target)
	case reset:
		return fmt.Sprintf("Error: read ECONNRESET %s:%s", host, port)
	default:
		return "Error: " + err.Error()
	}
}
