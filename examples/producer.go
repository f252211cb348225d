// A producer for KQS: go run producer.go connection.go HOST PORT TYPE. Each line of stdin is the data of a job, as JSON.
// Prints the id of each that is kept, or `refused: CODE`.
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
)

// insert inserts a job under an id of our own, so that it may be repeated until it is answered.
func insert(kind string, data json.RawMessage) (id any, code string) {
	name := make([]byte, 16)
	rand.Read(name)
	job := object{"type": kind, "id": fmt.Sprintf("%x", name), "data": data, "wait": 0}
	for id, code = call("insert", job); later[code]; id, code = call("insert", job) {
		pause()
	}
	succeeded()
	return id, code
}

func main() {
	status := 0
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			var id any
			code := "bad_json"
			if json.Valid(line) {
				id, code = insert(os.Args[3], line)
			}
			if code == "" {
				fmt.Println(id)
			} else {
				fmt.Println("refused:", code)
				status = 1
			}
		}
		if err != nil {
			os.Exit(status)
		}
	}
}
