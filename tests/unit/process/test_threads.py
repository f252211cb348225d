from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from kqs.process.threads import addresses_of, in_thread


async def test_work_is_done_while_users_code_holds_every_thread_of_the_loop() -> None:
    release = threading.Event()
    held = [asyncio.ensure_future(asyncio.to_thread(release.wait)) for _ in range(100)]
    assert await in_thread(max, 1, 2) == 2
    assert await addresses_of("127.0.0.1") == ["127.0.0.1"]
    release.set()
    await asyncio.gather(*held)


async def test_what_work_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 1, 0)


async def test_work_of_a_cancelled_caller_goes_on() -> None:
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait()
        ended.set()

    caller = asyncio.ensure_future(in_thread(work))
    await asyncio.to_thread(begun.wait)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    release.set()
    assert await asyncio.to_thread(ended.wait, 30)


async def test_a_name_has_each_of_its_addresses_once() -> None:
    found = await addresses_of("localhost")
    assert found
    assert set(found) <= {"127.0.0.1", "::1"}
    assert len(set(found)) == len(found)


async def test_no_name_is_every_address_of_this_machine() -> None:
    assert {"0.0.0.0", "::"} & set(await addresses_of(None))


async def test_an_unknown_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_arguments: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OSError, match="unknown"):
        await addresses_of("nowhere")
