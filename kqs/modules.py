"""Finding and importing the modules that hold handlers. Called once, at start-up."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from kqs import handlers
from kqs.config import Config
from kqs.errors import ExitCode, StartupError
from kqs.handlers import HandlerError, Registry
from kqs.log import get_logger
from kqs.minding.command import Command
from kqs.minding.limits import Limits

log = get_logger("kqs.modules")


#: where the names of a server's modules stand
IN_CONFIG = "[worker] modules"
#: what is imported when it is needed: a user's module in its place would be found out then, by whoever needs it
NEEDED = sys.stdlib_module_names | {
    *("aiofiles", "bson", "click", "crc32c", "cronsim", "gridfs", "json5", "motor", "msgspec"),
    *("pydantic", "pymongo", "re2", "rich", "structlog", "uvloop"),
}


def load_modules(names: Iterable[str], where: str = IN_CONFIG) -> Registry:
    """Import modules, as `python -m` would find them, and return the registry that their decorators filled.

    A module that registers nothing is warned of: its jobs would wait for ever. where: the names stand, for messages.

    Raises: StartupError: (78) a module cannot be imported, or another one of its name was: the message names it and the fault.
    """
    if not sys.flags.safe_path and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    registry = handlers.default_registry
    for name in names:
        known = registry.types
        module = _load(name, where)
        if registry.types == known and not _has_handlers(module):
            log.warning(f"a module of {where} registers no handler", module=name, file=_file(module))
    return registry


def with_commands(registry: Registry, config: Config) -> Registry:
    """Return a registry with the configured commands beside the handlers of this one.

    Raises: StartupError: (78) a type has both.
    """
    folder = str(config.folder.absolute())
    commands = {
        type_: Command(
            section.command, folder, section.output_bytes, Limits(*(getattr(section, name) for name in Limits._fields))
        )
        for type_, section in config.commands.items()
    }
    try:
        return registry.with_commands(commands)
    except HandlerError as error:
        raise StartupError(str(error), ExitCode.CONFIG) from error


def taken_types(registry: Registry, names: Sequence[str], where: str) -> frozenset[str]:
    """Return the types of which a worker runs jobs: those named, or all that have a handler if none is.

    Raises: StartupError: (78) one that is named has no handler. where: the names stand, for its message.
    """
    unknown = [name for name in names if name not in registry.types]
    if unknown:
        known = ", ".join(sorted(registry.types)) or "none"
        raise StartupError(f"{where}: no handler for type {unknown[0]!r}; those with one: {known}", ExitCode.CONFIG)
    return frozenset(names) or registry.types


def _load(name: str, where: str) -> ModuleType:
    _refuse_shadow(name, where)
    try:
        module = importlib.import_module(name)
    except BaseException as fault:
        _refuse_other(name, where)
        why = _not_a_name(name) or _describe(fault)
        raise StartupError(f"{where}: cannot load {name!r}: {why}", ExitCode.CONFIG) from fault
    _refuse_other(name, where)
    return module


def _not_a_name(name: str) -> str | None:
    """Return what to say of a file's name, of which Python says what helps nobody; None: it may be a module's name."""
    module = name.removesuffix(".py").removeprefix("./").replace("/", ".")
    return None if module == name else f"expected the name of a module, as python -m takes it: {module}"


def _refuse_shadow(name: str, where: str) -> None:
    """Refuse a name that the standard library has, or a package that this server needs, loaded or not.

    Raises: StartupError: (78) naming both files.
    """
    top = name.partition(".")[0]
    meant = PathFinder.find_spec(top, sys.path) if top in NEEDED else None
    if meant is None or meant.origin is None:
        return
    file = Path(meant.origin)
    found_in = (file.parent.parent if meant.submodule_search_locations else file.parent).resolve()
    needed = PathFinder.find_spec(top, [entry for entry in sys.path if Path(entry).resolve() != found_in])
    if needed is not None and needed.origin is not None:
        raise _taken(name, where, meant.origin, f"{needed.origin}, which the server needs, has that name")


def _refuse_other(name: str, where: str) -> None:
    """Refuse a name under which another module had been imported.

    Raises: StartupError: (78) naming both files.
    """
    top = name.partition(".")[0]
    meant, loaded = PathFinder.find_spec(top, sys.path), sys.modules.get(top)
    if meant is None or meant.origin is None or loaded is None:
        return
    taken = _file(loaded)
    if taken is None or not _is_same(taken, meant.origin):
        of = f"the one of {taken}" if taken else "one that is built into Python"
        raise _taken(name, where, meant.origin, f"another module of that name is loaded already, {of}")


def _taken(name: str, where: str, origin: str, by: str) -> StartupError:
    top = name.partition(".")[0]
    return StartupError(f"{where}: cannot load {name!r}: {top!r} is {origin}, but {by}: rename yours", ExitCode.CONFIG)


def _file(module: ModuleType) -> str | None:
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None) if spec is not None and spec.has_location else None
    return origin or getattr(module, "__file__", None)


def _is_same(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def _has_handlers(module: ModuleType) -> bool:
    """Tell whether a handler stands in `module` or below it: another module may have imported it before."""
    name = module.__name__
    registry = handlers.default_registry
    found = (registry.get(type_) for type_ in registry.types)
    places = [str(getattr(handler.function, "__module__", "")) for handler in found if handler is not None]
    return any(place == name or place.startswith(f"{name}.") for place in places)


def _describe(fault: BaseException) -> str:
    """Return one line: what went wrong, and the line of the user's code where it did."""
    if isinstance(fault, HandlerError):
        return str(fault)
    text = f"{type(fault).__name__}: {_text(fault)}".replace("\n", " ")
    frames = [frame for frame in traceback.extract_tb(fault.__traceback__) if "importlib" not in frame.filename]
    if len(frames) < 2:  # only this module itself: the other was not found, or did not compile
        return text
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})"


def _text(fault: BaseException) -> str:
    try:
        return str(fault)
    except BaseException as unprintable:
        return f"(its text cannot be had: {type(unprintable).__name__})"
