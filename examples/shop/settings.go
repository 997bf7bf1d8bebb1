package main

import (
	"fmt"
	"strconv"
	"time"
)

// settings is what a service is told by its environment.
type settings struct {
	version        string
	listen         string
	style          string
	checkout       string
	payment        string
	inventory      string
	store          string
	provider       string
	warehouse      string
	callTimeout    time.Duration
	connections    int
	storePool      int
	storeTimeout   time.Duration
	poolWait       time.Duration
	connectionLife time.Duration
	faults         string
}

// The language that each service pretends to be written in.
var styles = map[string]string{
	"frontend": "node", "checkout": "go", "payment": "java", "inventory": "python", "store": "sql",
}

// missingSetting is a setting that a service cannot do without.
type missingSetting struct{ name string }

func (m missingSetting) Error() string { return "required setting " + m.name + " is not set" }

// badSetting is a setting that cannot be read.
type badSetting struct{ name, value, want string }

func (b badSetting) Error() string {
	return fmt.Sprintf("setting %s is %q, and not %s", b.name, b.value, b.want)
}

// readSettings reads what a role needs. Even with an error the style is set, so that the error can be logged in it.
func readSettings(role string, get func(string) string) (settings, error) {
	var failed error
	fail := func(err error) {
		if failed == nil {
			failed = err
		}
	}
	text := func(name, otherwise string) string {
		if value := get(name); value != "" {
			return value
		}
		return otherwise
	}
	needed := func(name string) string {
		value := get(name)
		if value == "" {
			fail(missingSetting{name})
		}
		return value
	}
	duration := func(name string, otherwise time.Duration) time.Duration {
		value := get(name)
		if value == "" {
			return otherwise
		}
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			fail(badSetting{name, value, "a duration such as 2s"})
		}
		return d
	}
	number := func(name string, otherwise int) int {
		value := get(name)
		if value == "" {
			return otherwise
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			fail(badSetting{name, value, "a number"})
		}
		return n
	}
	s := settings{
		version:        text("VERSION", "v1"),
		listen:         text("LISTEN", ":8080"),
		style:          text("LOG_STYLE", styles[role]),
		callTimeout:    duration("CALL_TIMEOUT", 3*time.Second),
		connections:    number("MAX_CONNECTIONS", 0),
		storePool:      max(number("STORE_POOL", 8), 1),
		storeTimeout:   duration("STORE_TIMEOUT", 2*time.Second),
		poolWait:       duration("STORE_POOL_WAIT", time.Second),
		connectionLife: max(duration("CONNECTION_LIFE", 3*time.Second), time.Millisecond),
		faults:         get("FAULTS"),
	}
	switch role {
	case "frontend":
		s.checkout = needed("CHECKOUT_URL")
	case "checkout":
		s.payment, s.inventory = needed("PAYMENT_URL"), needed("INVENTORY_URL")
	case "payment":
		s.store, s.provider = needed("STORE_ADDRESS"), needed("PAYMENT_PROVIDER")
	case "inventory":
		s.store, s.warehouse = needed("STORE_ADDRESS"), needed("WAREHOUSE")
	}
	if _, err := parseFault(s.faults); err != nil {
		fail(err)
	}
	return s, failed
}
