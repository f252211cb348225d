"""What a command's end means. Pure: a report in; a result out, or a verdict raised."""

from __future__ import annotations

import os
import re
import signal

import msgspec

from kqs import verdicts
from kqs.errors import CallError
from kqs.minding.command import Command
from kqs.minding.frames import Ended, Unstarted
from kqs.wire.steps import finish
from kqs.wire.strict import checking_json

#: sysexits.h: EX_TEMPFAIL
AGAIN = 75

_NUMBER = re.compile(rb"[0-9]{1,11}(\.[0-9]{1,9})?")


def result_of(report: Ended | Unstarted, command: Command) -> object:
    """Return a command's result: its JSON as it wrote it, its text, or None.

    Raises: verdicts.Again, verdicts.Fail: what else its end means.
    """
    if isinstance(report, Unstarted):
        raise verdicts.Fail(why_unstarted(report, command), final=False)
    if report.is_flooded:
        raise verdicts.Fail(f"its output has more than {command.output_bytes} bytes (output_bytes)", final=True)
    if report.code == AGAIN:
        raise verdicts.Again(_delay(report.output))
    if report.code:
        raise verdicts.Fail(_reason(report, command), final=False)
    return _value(report.output)


def why_unstarted(report: Unstarted, command: Command) -> str:
    """Return why a command was not started, in words."""
    words = os.strerror(report.errno) if report.errno else "for no reason that is known"
    what = "the command" if report.step == command.argv[0] else f"the command {command.argv[0]}"
    return f"{what} cannot be started: {report.step}: {words[:1].lower()}{words[1:]}"


def _value(output: bytes) -> object:
    if output.isspace() or not output:
        return None
    try:
        finish(checking_json(output))
    except CallError:
        return output.rstrip(b"\r\n").decode(errors="replace") or None
    return None if output.strip() == b"null" else msgspec.Raw(output.strip())


def _delay(output: bytes) -> float | None:
    """Return the seconds that a command that wants to run again has written, if that is all it has written."""
    found = _NUMBER.fullmatch(output.strip())
    seconds = float(found[0]) if found else None
    return seconds if seconds is not None and seconds <= verdicts.MAX_DELAY_S else None


def _reason(report: Ended, command: Command) -> str:
    errors = report.errors.decode(errors="replace").strip()
    if report.is_cut:
        errors = f"…{errors.partition(chr(10))[2] or errors}"
    end = f"exit code {report.code}" if report.code > 0 else f"killed by {_signal_name(-report.code)}"
    if report.code == -signal.SIGXCPU and command.limits.cpu_s:
        end = f"{end}, after {command.limits.cpu_s} s of CPU time (cpu_s)"
    return f"{end}: {errors}" if errors else end


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
