"""A worker for KQS, of Python's standard library alone, one job at a time: python3 worker.py HOST PORT.

Put types of your own into TYPES and `work`; the rest keeps the rules of docs/write-a-client.md.
"""

import json
import random
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Event

TYPES, UNFIT, THREAD = ["echo", "sleep", "fail"], ("bad_call", "bad_json", "too_large"), ThreadPoolExecutor(1)


def work(type_, data, over):
    """Return the result, or raise the reason of a failure. over: is set when nobody wants either any more."""
    if type_ == "fail":
        raise ValueError(data["reason"])
    return over.wait(data["s"]) if type_ == "sleep" else data


class Worker:
    def __init__(self, host, port):
        self.address, self.lines, self.pause_s, self.stopping = (host, port), None, 0.1, False
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopping", True))

    def pause(self):  # longer each time, up to 5 s, until there is a job again
        time.sleep(self.pause_s * random.uniform(0.5, 1))
        self.pause_s = min(2 * self.pause_s, 5)

    def call(self, name, argument):
        """Return (result, code of the error). Raises: OSError: the connection is lost, but no run, for they are held."""
        line = json.dumps({"id": 1, "n": name, "m": argument}, allow_nan=False).encode() + b"\n"
        lines, self.lines = self.lines or socket.create_connection(self.address, 10).makefile("rwb"), None
        lines.write(line)
        lines.flush()
        if not (line := lines.readline()).endswith(b"\n"):  # what ends without a newline is no line
            raise ConnectionError
        self.lines = lines
        answer = json.loads(line, parse_int=lambda digits: (int if len(digits) < 4300 else float)(digits))  # more is not taken
        return answer.get("m"), (answer.get("e") or {}).get("code")

    def run_job(self, run):
        doing = THREAD.submit(work, run["type"], run["data"], over := Event())
        while not wait([doing], run["ttr"] / 3).done:
            with suppress(OSError):  # it is held, and goes on until there is a connection again
                state, code = self.call("touch", {"run": run["run"]})
                if code in ("stale", "bad_call") or (not code and state["cancel"]):
                    return over.set()  # the job is somebody else's by now, or another store's
        try:
            self.report(run, report="ok", result=doing.result())
        except Exception as error:  # of the work, or no server takes its result
            self.report(run, report="fail", reason=str(error)[:4000].encode(errors="replace").decode())

    def report(self, run, **end):  # until it is taken: to repeat a report is safe
        while True:
            with suppress(OSError):
                if (code := self.call("finish", {"run": run["run"], **end})[1]) in UNFIT and "result" in end:
                    raise ValueError(f"the server refuses the report: {code}")
                if code in (None, "stale", *UNFIT):
                    return
            self.pause() if not self.stopping or self.pause_s < 5 else sys.exit(f"nobody takes the report of {run['run']}")

    def main(self):
        while not self.stopping:
            try:
                runs, code = self.call("reserve", {"types": TYPES, "wait": 2, "worker": "python", "hold": True})
                self.pause() if code else setattr(self, "pause_s", 0.1)
                for run in runs or ():
                    self.call("release", {"run": run["run"], "begun": False}) if self.stopping else self.run_job(run)
            except OSError:
                self.pause()


Worker(sys.argv[1], int(sys.argv[2])).main()
