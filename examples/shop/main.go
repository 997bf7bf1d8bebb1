// Shop is a small application to look at Meshscope with: five services, a load generator, and faults on request.
//
//	shop frontend|checkout|payment|inventory|store   one of the services
//	shop load URL...                                 the load generator
//	shop wait URL                                    ends when the URL answers, for init containers
//	shop fault [status=503,share=0.5 | none]         asks the service in this pod to misbehave, or shows how it does
//
// frontend → checkout → payment and inventory → store. README.md has the settings and the faults.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// controlAddress is where a service takes faults: on loopback, so that only who may exec into its pod can use it.
const controlAddress = "127.0.0.1:9090"

const usage = `usage: shop frontend|checkout|payment|inventory|store
       shop load URL...
       shop wait URL
       shop fault [status=503,share=0.5,... | none]`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	var err error
	switch role, args := os.Args[1], os.Args[2:]; role {
	case "load":
		err = load(ctx, args)
	case "wait":
		err = await(ctx, strings.Join(args, " "))
	case "fault":
		err = askForFault(ctx, strings.Join(args, ","))
	case "frontend", "checkout", "payment", "inventory", "store":
		err = run(ctx, role)
	default:
		err = fmt.Errorf("there is no %q\n%s", role, usage)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run starts one service. What it lacks is told in the words of its language, as its users would see it.
func run(ctx context.Context, role string) error {
	settings, err := readSettings(role, os.Getenv)
	log := newLog(os.Stdout, role, settings.style)
	if err != nil {
		log.die(err)
	}
	service := newService(role, settings, log)
	go control(service)
	if service.faults.now().start > 0 {
		log.info("warming up")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(service.faults.now().start):
		}
	}
	err = service.serve(ctx)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// control takes faults from who is in the pod.
func control(service *service) {
	mux := http.NewServeMux()
	mux.HandleFunc("/fault", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			text, _ := io.ReadAll(io.LimitReader(r.Body, 4096))
			if err := service.faults.set(string(text)); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		fmt.Fprintln(w, service.faults.now())
	})
	server := &http.Server{Addr: controlAddress, Handler: mux, ReadHeaderTimeout: time.Second}
	if err := server.ListenAndServe(); err != nil {
		service.log.info("faults cannot be asked for: " + err.Error())
	}
}

// await ends when the URL answers without an error.
func await(ctx context.Context, url string) error {
	client := &http.Client{Timeout: 2 * time.Second}
	for {
		outcome := ask(ctx, client, url, "")
		if len(outcome) == 3 && outcome < "400" {
			return nil
		}
		fmt.Printf("waiting for %s: %s\n", url, outcome)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
}

func askForFault(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	method := http.MethodGet
	if text != "" {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+controlAddress+"/fault", strings.NewReader(text))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("no service of the shop runs here: %w", err)
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	if response.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(answer)))
	}
	fmt.Print(string(answer))
	return nil
}
