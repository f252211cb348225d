"""How a TOML file and the environment become a Config.

Later wins: the defaults -> the file -> `KQS_SECTION__KEY` in the environment. Everything wrong is one StartupError with exit
code 78, whose line names the place, what was found and what was expected.

The environment is read here and not by pydantic-settings: that one takes `KQS_SERVER` (the command line's server address) for
the section `server`, lower-cases job types, and passes over misspelt names.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

import msgspec

from kqs.config.sections import SECTIONS, CommandSection, Config, ScheduleConfig, ScheduleSection, Section, TakingSection
from kqs.errors import CallError, ExitCode, StartupError
from kqs.options import TYPE_RULE, OptionFields, expected, field_types, is_option, is_type
from kqs.reasons import reason_of
from kqs.wire.jobs import decode_job
from kqs.wire.jobtext import JOB_FIELDS
from kqs.words.nearest import unknown_name
from kqs.words.printable import shortened

ENV_CONFIG = "KQS_CONFIG"
DEFAULT_PATHS = (Path("config/kqs.toml"), Path("/etc/kqs/kqs.toml"))


class Setting(NamedTuple):
    """One setting that is not left at its default. origin: the file's path, or the variable's name."""

    key: tuple[str, ...]
    value: Any
    origin: str


SectionT = TypeVar("SectionT", bound=Section)

_ENV_KEY = re.compile(r"KQS_([A-Za-z]+)__(.+)")
#: one that lacks half of what is between section and key
_ENV_SLIP = re.compile(r"KQS_([A-Za-z]+)_([A-Za-z].*)")
#: sections that hold one more for each name
_NAMED = ("types", "schedules")
_TOP_LEVEL = (*SECTIONS, "defaults", *_NAMED)


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the settings of `path` (None: see `find_config`) with the environment laid over them.

    Raises: StartupError: exit code 78; the message is one line.
    """
    source, values, origins = _read(path, environ)
    return _Reader(source, origins).config(values)


def config_of(values: Mapping[str, Any], source: str) -> Config:
    """Return the settings that `values` are, by sections, as a file would give them. source: what to call it in a message.

    Raises: StartupError: as `load_config`.
    """
    return _Reader(source, {}).config(dict(values))


def settings_in(path: Path | None, environ: Mapping[str, str]) -> list[Setting]:
    """Return what the file and the environment set, in their order; what they leave out is at its default.

    Raises: StartupError: as `load_config`.
    """
    source, values, origins = _read(path, environ)
    _Reader(source, origins).config(values)
    found = []
    for section, keys in values.items():
        named = keys.items() if section in _NAMED else [(None, keys)]
        for name, members in named:
            at = (section,) if name is None else (section, name)
            found += [Setting((*at, key), value, origins.get((*at, key), source)) for key, value in members.items()]
    return found


def slips_in(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return variables that set nothing, and would but for an underscore; each with the name of the one that does.

    They are no error, for not all variables are made by hand: Kubernetes has its own of a service `kqs-server` in
    KQS_SERVER_PORT.
    """
    found = ((variable, _ENV_SLIP.fullmatch(variable)) for variable in sorted(environ))
    return [
        (variable, f"KQS_{slip[1]}__{slip[2]}")
        for variable, slip in found
        if slip is not None and slip[2].lower() in _keys_of(slip[1].lower())
    ]


def _keys_of(section: str) -> tuple[str, ...]:
    model = OptionFields if section == "defaults" else SECTIONS.get(section)
    return () if model is None else model.__struct_fields__


def _read(path: Path | None, environ: Mapping[str, str]) -> tuple[str, dict[str, Any], dict[tuple[str, ...], str]]:
    """Return what is read first, what it and the environment set, and which variables set what."""
    found = path or find_config(environ)
    values = _read_toml(found) if found else {}
    return str(found) if found else "environment", values, _overlay(values, environ)


def find_config(environ: Mapping[str, str]) -> Path | None:
    """Return $KQS_CONFIG, else the first of `DEFAULT_PATHS` that exists, else None."""
    if environ.get(ENV_CONFIG):
        return Path(environ[ENV_CONFIG])
    return next((path for path in DEFAULT_PATHS if path.is_file()), None)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode()
        return tomllib.loads(text)
    except OSError as exc:
        raise StartupError(f"{path}: {reason_of(exc)}", ExitCode.CONFIG) from exc
    except UnicodeDecodeError as exc:
        raise StartupError(f"{path}: {_place(exc.object[: exc.start].decode())}: not UTF-8", ExitCode.CONFIG) from exc
    except tomllib.TOMLDecodeError as exc:
        raise StartupError(f"{path}: {_toml_trouble(str(exc), text)}", ExitCode.CONFIG) from exc
    except (ValueError, RecursionError) as exc:  # which the parser lets through
        what = "nested too deep" if isinstance(exc, RecursionError) else "a number has too many digits"
        raise StartupError(f"{path}: {what}", ExitCode.CONFIG) from exc


def _toml_trouble(message: str, text: str) -> str:
    """Return the parser's message with its place, which it names at the end, in front."""
    what, found, where = message.rpartition(" (at ")
    if not found:  # a parser that words it otherwise
        return where
    place = _place(text) if where.startswith("end of") else where.rstrip(")")
    return f"{place}: {what[:1].lower()}{what[1:]}"


def _place(text: str) -> str:
    return f"line {text.count(chr(10)) + 1}, column {len(text) - text.rfind(chr(10))}"


def _overlay(values: dict[str, Any], environ: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Lay the environment's settings over `values`; return which variable each came from, by its key."""
    origins = {}
    for variable, text in sorted(environ.items()):
        match = _ENV_KEY.fullmatch(variable)
        if not match:
            continue
        key = _key_of(match, values)
        place = values
        for step in key[:-1]:
            inner = place.setdefault(step, {})
            if not isinstance(inner, dict):
                break
            place = inner
        else:
            place[key[-1]] = _value_of(key, text)
            origins[key] = variable
    return origins


def _key_of(match: re.Match[str], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the key that a variable names. Shells like capitals: a NAME in capitals is the file's, else lower case."""
    section = match[1].lower()
    if section not in _NAMED:
        return (section, match[2].lower())
    name, separator, option = match[2].rpartition("__")
    if not separator:
        return (section, option)
    if name.isupper():
        name = next((known for known in values.get(section, {}) if known.upper() == name), name.lower())
    return (section, name, option.lower())


def _value_of(key: tuple[str, ...], text: str) -> Any:
    """Return a variable's value: text where the setting is text, else what its JSON says."""
    section = SECTIONS.get(key[0])
    kind = get_type_hints(section).get(key[1]) if section else None
    if kind not in (None, int, float, bool, list[str]):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # which is told as text that does not fit
        return text


class _Reader:
    """Checks values and words what is wrong with them; `origins` as `_overlay` returns it."""

    def __init__(self, source: str, origins: Mapping[tuple[str, ...], str]) -> None:
        self._source = source
        self._origins = origins

    def config(self, values: dict[str, Any]) -> Config:
        for name, value in values.items():
            if name not in _TOP_LEVEL:
                self._refuse_alone(name)
                raise self._unknown((name,), _TOP_LEVEL, "section")
            if not isinstance(value, dict):
                raise self._wrong((name,), value, f"a section, [{name}]")
        types = {name: self._type(name, value) for name, value in values.get("types", {}).items()}
        checked: dict[str, Any] = {name: self._section(name, model, values.get(name, {})) for name, model in SECTIONS.items()}
        checked["defaults"] = self._options(("defaults",), values.get("defaults", {}))
        checked["types"] = {name: options for name, (options, _, _) in types.items()}
        checked["taking"] = {name: taking for name, (_, taking, _) in types.items()}
        self._check_chains(checked["taking"])
        checked["commands"] = {name: command for name, (_, _, command) in types.items() if command is not None}
        checked["schedules"] = {name: self._schedule(name, value) for name, value in values.get("schedules", {}).items()}
        return Config(**checked)

    def _refuse_alone(self, key: str) -> None:
        """Refuse a setting that stands above all sections, by the names of those that have one."""
        sections = " or ".join(f"[{section}]" for section in (*SECTIONS, "defaults") if key in _keys_of(section))
        if sections:
            raise StartupError(f"{self._at((key,))}: stands in no section, expected it in {sections}", ExitCode.CONFIG)

    def _section(self, name: str, model: type[Section], values: dict[str, Any]) -> Section:
        for key in values:
            if key not in model.__struct_fields__:
                raise self._unknown((name, key), model.__struct_fields__)
        return self._checked((name,), model, values)

    def _checked(self, at: tuple[str, ...], model: type[SectionT], values: dict[str, Any]) -> SectionT:
        for key, value in values.items():
            if not _fits(model, key, value):
                raise self._wrong((*at, key), value, expected(model, key))
        return msgspec.convert(values, model, dec_hook=_path_of)

    def _type(self, name: str, values: Any) -> tuple[dict[str, Any], TakingSection, CommandSection | None]:
        key = ("types", name)
        if not isinstance(values, dict):
            raise self._wrong(key, values, f"a section, [types.{name}]")
        if not is_type(name):
            raise self._wrong(key, name, f"a type of {TYPE_RULE}")
        taking = self._checked(key, TakingSection, {k: v for k, v in values.items() if k in TakingSection.__struct_fields__})
        if taking.rate is None and "per_s" in values:
            raise self._wrong((*key, "per_s"), values["per_s"], "a rate beside it, which it is the time of")
        also = (*TakingSection.__struct_fields__, *CommandSection.__struct_fields__)
        options = self._options(key, {k: v for k, v in values.items() if k not in also}, also)
        return options, taking, self._command(key, values)

    def _schedule(self, name: str, values: Any) -> ScheduleConfig:
        key = ("schedules", name)
        if not isinstance(values, dict):
            raise self._wrong(key, values, f"a section, [schedules.{name}]")
        own = ScheduleSection.__struct_encode_fields__
        fields = {known: value for known, value in values.items() if known not in own}
        for known in fields:
            if known not in JOB_FIELDS:
                raise self._unknown((*key, known), (*own, *JOB_FIELDS))
        section = self._checked(key, ScheduleSection, {known: value for known, value in values.items() if known in own})
        members = [f"{json.dumps(known)}:{self._as_json((*key, known), value)}" for known, value in fields.items()]
        job = f"{{{','.join(members)}}}"
        try:
            decode_job(job.encode())
        except CallError as error:
            raise StartupError(f"{self._at(key)}: {error}", ExitCode.CONFIG) from None
        return ScheduleConfig(section, job)

    def _as_json(self, key: tuple[str, ...], value: object) -> str:
        try:
            return json.dumps(value, allow_nan=False, ensure_ascii=False)
        except (ValueError, TypeError):
            raise self._wrong(key, value, "what JSON can say: no times, and no inf or nan") from None

    def _check_chains(self, taking: Mapping[str, TakingSection]) -> None:
        """Refuse subscribers that have subscribers: with them there could be rings."""
        for name, section in taking.items():
            if any(other == name or (other in taking and taking[other].fan_out) for other in section.fan_out):
                raise self._wrong(("types", name, "fan_out"), section.fan_out, expected(TakingSection, "fan_out"))

    def _command(self, key: tuple[str, ...], values: dict[str, Any]) -> CommandSection | None:
        """Return the command of a type, if it has one; its limits are of no use without."""
        own = {name: value for name, value in values.items() if name in CommandSection.__struct_fields__}
        if own and "command" not in own:
            raise self._wrong((*key, next(iter(own))), next(iter(own.values())), "a command beside it, whose limit it is")
        return self._checked(key, CommandSection, own) if own else None

    def _options(self, key: tuple[str, ...], values: dict[str, Any], also: Iterable[str] = ()) -> dict[str, Any]:
        for name, value in values.items():
            if name not in OptionFields.__struct_fields__:
                raise self._unknown((*key, name), (*OptionFields.__struct_fields__, *also))
            if not is_option(name, value):
                raise self._wrong((*key, name), value, expected(OptionFields, name))
        return values

    def _unknown(self, key: tuple[str, ...], known: Iterable[str], what: str = "setting") -> StartupError:
        return StartupError(f"{self._at(key)}: {unknown_name(what, key[-1], known)}", ExitCode.CONFIG)

    def _wrong(self, key: tuple[str, ...], got: object, wanted: str) -> StartupError:
        return StartupError(f"{self._at(key)}: got {_told(got)}, expected {wanted}", ExitCode.CONFIG)

    def _at(self, key: tuple[str, ...]) -> str:
        origin = next((variable for known, variable in self._origins.items() if known[: len(key)] == key), None)
        return f"{self._source if origin is None else f'environment {origin}'}: {'.'.join(map(_shown, key))}"


def _told(value: object) -> str:
    try:
        return shortened(json.dumps(value, default=str))
    except ValueError:
        return "a number of too many digits"


def _shown(word: str) -> str:
    return word if word.isprintable() else json.dumps(word)


def _fits(model: type[Section], key: str, value: object) -> bool:
    """Tell whether a setting may be `value`; types are strict, since "14151" for a port is a slip."""
    try:
        found = msgspec.convert(value, field_types(model)[key], dec_hook=_path_of)
    except msgspec.ValidationError:
        return False
    if isinstance(found, float) and not math.isfinite(found):
        return False
    return key not in model.RULES or model.RULES[key](found)


def _path_of(_type: type, value: object) -> Path:
    if isinstance(value, str | Path):
        return Path(value)
    raise ValueError("a path is text")
