// What worker.go and producer.go share: a connection to KQS that comes back, and one call at a time over it.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"log"
	"math/rand"
	"net"
	"os"
	"time"
)

type object = map[string]any

const lost = "lost"              // the code of a call whose connection was lost before the answer: nobody knows what was done
const silence = 10 * time.Second // for so long a server that is there does not keep silent

// what may well be taken when it is tried again
var later = map[string]bool{lost: true, "busy": true, "draining": true, "no_space": true, "journal_failed": true, "internal": true}

var (
	conn    net.Conn // nil: there is none
	reader  *bufio.Reader
	backoff = 0.1
)

// call returns the result of a call, or the code of its error.
func call(name string, argument any) (result any, code string) {
	if conn == nil {
		var err error
		if conn, err = net.DialTimeout("tcp", net.JoinHostPort(os.Args[1], os.Args[2]), silence); err != nil {
			conn = nil
			return nil, lost
		}
		reader = bufio.NewReader(conn)
	}
	line, err := json.Marshal(object{"id": 1, "n": name, "m": argument})
	if err != nil {
		return nil, err.Error() // nothing that JSON has
	}
	conn.SetDeadline(time.Now().Add(silence))
	conn.Write(append(line, '\n'))
	var answer object
	line, err = reader.ReadBytes('\n') // what ends without a newline is no line
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.UseNumber() // as they stand: not all of them are a float64
	if err != nil || decoder.Decode(&answer) != nil {
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

// pauseOrEnd pauses, or ends a program that is to stop and has waited its longest.
func pauseOrEnd(isToStop bool) {
	if isToStop && backoff == 5 {
		log.Fatal("nobody takes the last report")
	}
	pause()
}

func float(number any) float64 { n, _ := number.(json.Number); f, _ := n.Float64(); return f }
func succeeded()               { backoff = 0.1 }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
