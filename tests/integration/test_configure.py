"""Options that are set at run time, over TCP and a kill."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from tests.support.asking import ask
from tests.support.serving import Served, serving


def ttr_of(server: Served, type_: str) -> Any:
    return ask(server, "configure", {"type": type_})["options"]["ttr"]


def test_what_was_answered_holds_after_a_kill_and_above_the_configuration(tmp_path: Path) -> None:
    with serving(tmp_path, TYPES__MAIL__TTR="5", DEFAULTS__TTR="4") as server:
        assert (ttr_of(server, "mail"), ttr_of(server, "video")) == (5, 4)
        assert ask(server, "configure", {"type": "mail", "options": {"ttr": 77, "wait": 0.2}})["changed"]
        assert ask(server, "configure", {"options": {"ttr": 66}})["changed"]
        assert (ttr_of(server, "mail"), ttr_of(server, "video")) == (77, 66)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with serving(tmp_path, TYPES__MAIL__TTR="5", DEFAULTS__TTR="4") as server:
        assert (ttr_of(server, "mail"), ttr_of(server, "video")) == (77, 66)
        job_id = ask(server, "insert", {"type": "video", "delay": 60})
        assert ask(server, "job", job_id)["options"]["ttr"] == 66
        assert ask(server, "configure", {"type": "mail", "reset": True})["options"]["ttr"] == 5
