"""A producer for KQS, of Python's standard library alone: python3 producer.py HOST PORT TYPE.

Each line of stdin is the data of a job, as JSON. Prints the id of each that is kept, or `refused: CODE`.
"""

import json
import random
import socket
import sys
import time
import uuid

LATER = {"busy", "draining", "no_space", "journal_failed", "internal"}  # may well be kept when it is tried again


class Producer:
    def __init__(self, host, port):
        self.address, self.lines, self.pause_s = (host, port), None, 0.1

    def call(self, name, argument):
        """Return (result, code of the error). Raises: OSError: the connection is lost, and nobody knows what was done."""
        try:
            self.lines = self.lines or socket.create_connection(self.address).makefile("rwb")
            self.lines.write(json.dumps({"id": 1, "n": name, "m": argument}).encode() + b"\n")
            self.lines.flush()
            if not (line := self.lines.readline()).endswith(b"\n"):  # what ends without a newline is no line
                raise ConnectionError
        except OSError:
            self.lines = None
            raise
        answer = json.loads(line)
        return answer.get("m"), answer["e"]["code"] if answer.get("e") else None

    def insert(self, type_, data):
        """Insert one job, under an id of our own, so that it may be repeated until it is answered; return (id, code)."""
        job = {"type": type_, "data": data, "id": str(uuid.uuid4()), "wait": 0}
        while True:
            try:
                job_id, code = self.call("insert", job)
                if code not in LATER:
                    self.pause_s = 0.1
                    return job_id, code
            except OSError:
                pass
            time.sleep(self.pause_s * random.uniform(0.5, 1))
            self.pause_s = min(2 * self.pause_s, 5)


sys.set_int_max_str_digits(0)  # what comes is our own
producer, status = Producer(sys.argv[1], int(sys.argv[2])), 0
for text in filter(str.strip, sys.stdin):
    try:
        job_id, code = producer.insert(sys.argv[3], json.loads(text))
    except (ValueError, RecursionError):
        code = "bad_json"
    print(f"refused: {code}" if code else job_id, flush=True)
    status = 1 if code else status
sys.exit(status)
