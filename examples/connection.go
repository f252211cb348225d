// What worker.go and producer.go share: a connection to KQS that comes back, and one call at a time over it.
package main

import (
	"bufio"
	"encoding/json"
	"math/rand"
	"net"
	"os"
	"time"
)

type object = map[string]any

const lost = "lost" // the code of a call whose connection was lost before the answer: nobody knows what was done

var (
	conn    net.Conn // nil: there is none
	reader  *bufio.Reader
	backoff = 0.1
)

// call returns the result of a call, or the code of its error.
func call(name string, argument any) (result any, code string) {
	if conn == nil {
		var err error
		if conn, err = net.Dial("tcp", net.JoinHostPort(os.Args[1], os.Args[2])); err != nil {
			conn = nil
			return nil, lost
		}
		reader = bufio.NewReader(conn)
	}
	json.NewEncoder(conn).Encode(object{"id": 1, "n": name, "m": argument})
	var answer object
	line, err := reader.ReadBytes('\n') // what ends without a newline is no line
	if err != nil || json.Unmarshal(line, &answer) != nil {
		conn.Close()
		conn = nil
		return nil, lost
	}
	if answer["e"] != nil {
		return nil, answer["e"].(object)["code"].(string)
	}
	return answer["m"], ""
}

// pause waits longer each time, up to 5 s, until succeeded is called.
func pause() {
	time.Sleep(seconds(backoff * (0.5 + rand.Float64()/2)))
	if backoff *= 2; backoff > 5 {
		backoff = 5
	}
}

func succeeded() { backoff = 0.1 }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
