"""What a store may ask of MongoDB, so that any server of its protocol will do; checked of every command as it is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

_OPERATORS = {"$set", "$unset", "$inc", "$min", "$max", "$push", "$pull"}
_PUSH_MODIFIERS = {"$each", "$slice"}
_STAGES = {"$match", "$group"}
_WRITES = {"insert", "update", "delete", "findAndModify", "createIndexes"}
_COMMANDS = _WRITES | {"find", "getMore", "aggregate", "listCollections", "listIndexes", "killCursors", "endSessions"}


class Watch(CommandListener):
    """A driver's listener. strange: what not every server of the protocol understands, and writes that are not durable."""

    def __init__(self) -> None:
        self.strange: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.strange += [f"{event.command_name}: {fault}" for fault in self._faults(event.command_name, event.command)]

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    def _faults(self, name: str, command: Mapping[str, Any]) -> Iterator[str]:
        if name not in _COMMANDS:
            yield "unknown command"
        yield from (f"{part} is used" for part in ("txnNumber", "startTransaction", "autocommit") if part in command)
        if name in _WRITES:
            concern = command.get("writeConcern", {})
            if (concern.get("w"), concern.get("j")) != ("majority", True):
                yield f"write concern {concern}"
        if name == "update":
            for statement in command["updates"]:
                yield from self._update_faults(statement["u"], statement)
        if name == "findAndModify":
            yield from self._update_faults(command["update"], command)
        if name == "aggregate":
            yield from (f"stage {stage}" for stage in command["pipeline"] if set(stage) - _STAGES)

    def _update_faults(self, update: Any, statement: Mapping[str, Any]) -> Iterator[str]:
        if not isinstance(update, Mapping):
            yield "a pipeline"
            return
        if not any(name.startswith("$") for name in update):
            return  # a document that replaces another one
        yield from (f"operator {operator}" for operator in set(update) - _OPERATORS)
        yield from (f"field {field}" for fields in update.values() for field in fields if "$" in field)
        yield from (f"$push with {item}" for item in update.get("$push", {}).values() if set(item) - _PUSH_MODIFIERS)
        if "arrayFilters" in statement:
            yield "array filters"
