"""What owners say of types in the model: limits, options and subscribers, which hold over stops and kills."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from kqs.errors import CallError
from tests.property.model.machine import TICK, TYPES, WholeMachine

SLOTS = st.sampled_from([0, 1, 1, 2, None])
RATES = st.sampled_from([1.0, 3.0, None])
OPTIONS = st.sampled_from([{"retries": 0}, {"retries": 1}, {"retry_delay": 0.0}, {"retry_delay": 1.01}, {"keep": 5.01}])


class SettingsMachine(WholeMachine):
    """See the module docstring."""

    @rule(type_=st.sampled_from([*TYPES, TICK]), name=st.sampled_from(["concurrency", "max_running"]), most=SLOTS)
    def limit(self, type_: str, name: str, most: int | None) -> None:
        self.run(self.limiting(type_, {name: most}))

    @rule(type_=st.sampled_from(TYPES), rate=RATES)
    def limit_rate(self, type_: str, rate: float | None) -> None:
        if not self.uri:  # where tokens are granted by the store, as the clock of the machine says
            self.run(self.limiting(type_, {"rate": rate}))

    @rule(type_=st.sampled_from(TYPES))
    def lift(self, type_: str) -> None:
        self.run(self.limiting(type_, None))

    async def limiting(self, type_: str, said: dict[str, float | None] | None) -> None:
        answer = await self.whole.backend.limit(type_, said)
        rules = self.oracle.rules
        changed = rules.reset(type_) if said is None else rules.limit(type_, said, self.clock.monotonic())
        assert answer["changed"] == changed
        await self.be_still()

    @rule(type_=st.sampled_from(TYPES), options=OPTIONS, is_back=st.booleans())
    def configure(self, type_: str, options: dict[str, Any], is_back: bool) -> None:
        """Say an option of a type, or take it back."""
        self.run(self.configuring(type_, dict.fromkeys(options) if is_back else options))

    async def configuring(self, type_: str, said: dict[str, Any] | None) -> None:
        answer = await self.whole.backend.configure(type_, said)
        options = self.oracle.rules.options
        before = options.get(type_, {})
        after = {} if said is None else {name: value for name, value in {**before, **said}.items() if value is not None}
        options[type_] = after
        assert (answer["changed"], answer["by_call"]) == (after != before, after)
        await self.be_still()

    @rule(type_=st.sampled_from(TYPES), subscriber=st.sampled_from(TYPES), is_on=st.booleans())
    def subscribe(self, type_: str, subscriber: str, is_on: bool) -> None:
        self.run(self.subscribing(type_, subscriber, is_on=is_on))

    async def subscribing(self, type_: str, subscriber: str, *, is_on: bool) -> None:
        of = self.oracle.rules.subscribers
        there = of.get(type_, [])
        backend = self.whole.backend
        try:
            answer = await (backend.subscribe if is_on else backend.unsubscribe)(type_, subscriber)
        except CallError:
            assert is_on
            assert subscriber == type_ or of.get(subscriber) or any(type_ in others for others in of.values())
            return
        assert answer["changed"] == ((subscriber not in there) is is_on)
        of[type_] = sorted({*there, subscriber} if is_on else {*there} - {subscriber})
        await self.be_still()

    async def lift_all(self) -> None:
        await super().lift_all()
        for type_ in list(self.oracle.rules.limits):
            await self.limiting(type_, None)
