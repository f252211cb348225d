// A worker for KQS, one job at a time: go run worker.go connection.go HOST PORT.
// Put types of your own into types and work; the rest keeps the rules of docs/write-a-client.md.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

var types, stopping = []string{"echo", "sleep", "fail"}, atomic.Bool{}

// work returns what is to be reported; over is closed when nobody wants that any more.
func work(kind string, data any, over <-chan struct{}) object {
	switch fields, _ := data.(object); kind {
	case "fail":
		return object{"report": "fail", "reason": fmt.Sprint(fields["reason"])}
	case "sleep":
		select {
		case <-over:
		case <-time.After(seconds(float(fields["s"]))):
		}
	}
	return object{"report": "ok", "result": data}
}

func runJob(run object) {
	over, ended := make(chan struct{}), make(chan object, 1)
	defer close(over)
	go func() { ended <- work(run["type"].(string), run["data"], over) }()
	for {
		select {
		case report := <-ended:
			report["run"] = run["run"]
			finish(report)
			return
		case <-time.After(seconds(float(run["ttr"]) / 3)):
			state, code := call("touch", object{"run": run["run"]})
			if code == lost || code == "stale" || code == "" && state.(object)["cancel"] == true {
				return // the job is somebody else's by now
			}
		}
	}
}

func finish(report object) {
	_, code := call("finish", report)
	for ; later[code]; _, code = call("finish", report) { // to repeat a report is safe
		pauseOrEnd(stopping.Load())
	}
	if report["report"] == "ok" && code != "" && code != "stale" { // a result that nobody could take
		finish(object{"run": report["run"], "report": "fail", "reason": code})
	}
	fmt.Fprintln(os.Stderr, report["run"], report["report"], code)
}

func main() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() { <-term; stopping.Store(true) }()
	for !stopping.Load() {
		found, code := call("reserve", object{"types": types, "wait": 2, "worker": "go"})
		if code != "" {
			pause()
			continue
		}
		succeeded()
		for _, run := range found.([]any) {
			if !stopping.Load() {
				runJob(run.(object))
			} else {
				call("release", object{"run": run.(object)["run"], "begun": false})
			}
		}
	}
}
