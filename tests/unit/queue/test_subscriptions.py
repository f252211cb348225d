"""Which types have subscribers: those of the configuration and the stored ones, as one."""

from __future__ import annotations

from typing import Any

import pytest

from kqs.errors import CallError, StoreUnavailableError
from kqs.queue import subscriptions
from kqs.queue.subscriptions import Subscriptions


class MemoryStore:
    def __init__(self, *, is_shared: bool = False) -> None:
        self.is_shared = is_shared
        self.kept: set[tuple[str, str]] = set()
        self.failures = 0

    async def subscribe(self, type_: str, subscriber: str) -> bool:
        is_new = (type_, subscriber) not in self.kept
        self.kept.add((type_, subscriber))
        return is_new

    async def unsubscribe(self, type_: str, subscriber: str) -> bool:
        was_there = (type_, subscriber) in self.kept
        self.kept.discard((type_, subscriber))
        return was_there

    async def subscriptions(self) -> dict[str, list[str]]:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailableError("away")
        return {kind: sorted(other for of, other in self.kept if of == kind) for kind, _ in self.kept}


def made(store: Any, **configured: list[str]) -> Subscriptions:
    return Subscriptions(store, configured)


async def test_the_stored_ones_are_added_to_those_of_the_configuration() -> None:
    found = made(MemoryStore(), order=["ship"])
    assert found.of == {"order": ["ship"]}
    assert [await found.subscribe("order", one) for one in ("bill", "bill", "ship")] == [True, False, False]
    assert await found.subscribe("mail", "bill")
    assert found.of == {"order": ["ship", "bill"], "mail": ["bill"]}
    with pytest.raises(CallError, match="stands in the configuration"):
        await found.unsubscribe("order", "ship")
    assert [await found.unsubscribe("mail", "bill") for _ in range(2)] == [True, False]
    assert found.of == {"order": ["ship", "bill"]}


@pytest.mark.parametrize(("type_", "subscriber"), [("order", "order"), ("ship", "x"), ("x", "order")])
async def test_a_subscriber_has_none_itself(type_: str, subscriber: str) -> None:
    found = made(MemoryStore(), order=["ship"])
    with pytest.raises(CallError, match="a subscriber has no subscribers itself"):
        await found.subscribe(type_, subscriber)
    assert found.of == {"order": ["ship"]}


async def test_there_is_a_most_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "MAX_SUBSCRIBERS", 2)
    monkeypatch.setattr(subscriptions, "MAX_TYPES", 1)
    found = made(MemoryStore())
    for subscriber in ("a", "b"):
        assert await found.subscribe("order", subscriber)
    for type_ in ("order", "mail"):
        with pytest.raises(CallError, match="can be kept") as caught:
            await found.subscribe(type_, "c")
        assert caught.value.call_code == "busy"


async def test_what_others_keep_is_taken_in_by_a_look() -> None:
    store = MemoryStore(is_shared=True)
    found = made(store)
    store.kept.add(("order", "bill"))
    store.failures = 1
    with pytest.raises(StoreUnavailableError):
        await found.look()
    assert found.of == {}
    await found.look()
    assert found.of == {"order": ["bill"]}
