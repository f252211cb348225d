import json
import re
import tomllib
from pathlib import Path
from typing import Protocol, get_type_hints

import msgspec
import pytest

from kqs.config import Config, ServerSection, find_config, load_config, slips_in
from kqs.config.load import _toml_trouble
from kqs.config.sections import SECTIONS, CommandSection, TakingSection
from kqs.errors import ExitCode, StartupError
from kqs.options import Cascade, OptionFields, Options

SHIPPED = Path(__file__).parents[3] / "config" / "kqs.toml"


def meta_of(section: type[object], name: str) -> msgspec.Meta:
    """What a setting's annotation says beside its type."""
    (meta, *_) = get_type_hints(section, include_extras=True)[name].__metadata__
    assert isinstance(meta, msgspec.Meta)
    return meta


class Load(Protocol):
    """Reads a file of this content, and this environment."""

    def __call__(self, toml: str = "", **environ: str) -> Config: ...


class Told(Protocol):
    """What is said of a file or an environment that cannot be read."""

    def __call__(self, toml: str = "", **environ: str) -> str: ...


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(toml: str = "", **environ: str) -> Config:
        path = tmp_path / "kqs.toml"
        path.write_text(toml)
        return load_config(path, environ)

    return load


@pytest.fixture
def trouble(load: Load, tmp_path: Path) -> Told:
    def trouble(toml: str = "", **environ: str) -> str:
        with pytest.raises(StartupError) as caught:
            load(toml, **environ)
        assert caught.value.exit_code is ExitCode.CONFIG
        assert "\n" not in str(caught.value)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return trouble


def test_shipped_file_equals_the_defaults() -> None:
    shipped, built_in = load_config(SHIPPED, {}), Config()
    assert msgspec.structs.replace(shipped, defaults={}) == msgspec.structs.replace(built_in, defaults={})
    assert Cascade(shipped.defaults, {}).of_type["any"] == Options()


def test_shipped_file_states_every_setting() -> None:
    values = tomllib.loads(SHIPPED.read_text())
    assert {name: set(values[name]) for name in SECTIONS} == {
        name: set(model.__struct_fields__) for name, model in SECTIONS.items()
    }
    without_value = {name for name in OptionFields.__struct_fields__ if getattr(Options(), name) is None}
    assert set(values["defaults"]) == set(OptionFields.__struct_fields__) - without_value
    assert all(re.search(rf"^# {name} = ", SHIPPED.read_text(), re.M) for name in without_value)


def test_every_setting_is_described() -> None:
    assert all(meta_of(model, name).description for model in SECTIONS.values() for name in model.__struct_fields__)


def test_file_overrides_the_defaults(load: Load) -> None:
    assert load("[server]\nport = 1").server == ServerSection(port=1)


def test_environment_overrides_the_file(load: Load) -> None:
    assert load("[server]\nport = 1", KQS_SERVER__PORT="2").server.port == 2


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("KQS_SERVER__HOST", "127.0.0.1", "server.host", "127.0.0.1"),
        ("KQS_SERVER__ALLOW_PUBLIC", "true", "server.allow_public", True),
        ("KQS_JOURNAL__DIR", "7", "journal.dir", Path("7")),
        ("KQS_STORE__KEEP_FAIL_S", "0.5", "store.keep_fail_s", 0.5),
        ("KQS_WORKER__MODULES", '["a", "b"]', "worker.modules", ["a", "b"]),
        ("KQS_BROKER__SERVERS", '["[::1]:1", "unix:/a"]', "broker.servers", ["[::1]:1", "unix:/a"]),
        ("KQS_LOG__LEVEL", "debug", "log.level", "debug"),
        ("KQS_DEFAULTS__PRIO", "high", "defaults", {"prio": "high"}),
        ("KQS_TYPES__RESIZE__TTR", "5", "types", {"resize": {"ttr": 5}}),
        ("KQS_TYPES__Resize__TTR", "5", "types", {"Resize": {"ttr": 5}}),
        ("KQS_TYPES__a__b__TTR", "5", "types", {"a__b": {"ttr": 5}}),
        ("KQS_TYPES__resize", '{"ttr": 5}', "types", {"resize": {"ttr": 5}}),
        ("KQS_TYPES__RESIZE__WEIGHT", "3", "taking", {"resize": TakingSection(weight=3)}),
        ("KQS_TYPES__RESIZE__COMMAND", '["a", "b"]', "commands", {"resize": CommandSection(command=["a", "b"])}),
    ],
)
def test_environment_sets_any_key(load: Load, variable: str, text: str, key: str, value: object) -> None:
    found = load(**{variable: text})
    for step in key.split("."):
        found = getattr(found, step)
    assert found == value


def test_type_in_capitals_means_the_type_of_the_file(load: Load) -> None:
    assert load("[types.ReSize]\nttr = 1", KQS_TYPES__RESIZE__TTR="2").types == {"ReSize": {"ttr": 2}}


def test_server_address_of_the_command_line_is_no_section(load: Load) -> None:
    assert load(KQS_SERVER="localhost:1", KQS_CONFIG="x", PATH="/bin") == Config()


def test_types_give_options_and_weights(load: Load) -> None:
    config = load("[types.a]\nttr = 5\nweight = 3\n[types.b]\nretries = 0")
    assert config.types == {"a": {"ttr": 5}, "b": {"retries": 0}}
    assert config.taking == {"a": TakingSection(weight=3), "b": TakingSection()}
    assert Cascade(config.defaults, config.types).of_type["a"].ttr == 5


def test_types_give_commands_and_their_limits(load: Load) -> None:
    config = load('[types.a]\ncommand = ["./a.sh", "--fast"]\nttr = 5\ncpu_s = 3\n[types.b]\nweight = 2')
    assert config.commands == {"a": CommandSection(command=["./a.sh", "--fast"], cpu_s=3)}
    assert config.types == {"a": {"ttr": 5}, "b": {}}


def test_shipped_file_tells_every_setting_of_a_command() -> None:
    text = SHIPPED.read_text()
    told = {name: re.search(rf"^# {name} = (.*?)( +#.*)?$", text, re.M) for name in CommandSection.__struct_fields__}
    assert all(told.values())
    defaults = {field.name: field.default for field in msgspec.structs.fields(CommandSection) if not field.required}
    assert {
        name: tomllib.loads(f"x = {found[1]}")["x"] for name, found in told.items() if found and name in defaults
    } == defaults
    assert all(meta_of(CommandSection, name).description for name in CommandSection.__struct_fields__)


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("[server]\nport = 70000", "kqs.toml: server.port: got 70000, expected an integer from 0 to 65535"),
        ('[server]\nport = "1"', 'kqs.toml: server.port: got "1", expected an integer from 0 to 65535'),
        ("[server]\nallow_public = 1", "kqs.toml: server.allow_public: got 1, expected true or false"),
        (
            '[server]\nsocket_mode = "0680"',
            'kqs.toml: server.socket_mode: got "0680", expected permissions in octal, as "0660"',
        ),
        ("[server]\nprot = 1", 'kqs.toml: server.prot: unknown setting "prot"; the nearest known one is "port"'),
        ("[sever]", 'kqs.toml: sever: unknown section "sever"; the nearest known one is "server"'),
        ("weights = {}", 'kqs.toml: weights: unknown section "weights"'),
        ("server = 3", "kqs.toml: server: got 3, expected a section, [server]"),
        ("[journal]\ndir = 3", "kqs.toml: journal.dir: got 3, expected text"),
        ('[store]\nkind = "mongo"', 'kqs.toml: store.kind: got "mongo", expected "mongodb" or "sqlite"'),
        ("[store]\nkeep_fail_s = nan", "kqs.toml: store.keep_fail_s: got NaN, expected a number from -1 to 10000000000"),
        ('[worker]\nmodules = "a"', 'kqs.toml: worker.modules: got "a", expected a list of text'),
        ("[broker]\nservers = []", "kqs.toml: broker.servers: got [], expected a list of at least one HOST:PORT or unix:PATH"),
        (
            '[broker]\nservers = ["a"]',
            'kqs.toml: broker.servers: got ["a"], expected a list of at least one HOST:PORT or unix:PATH',
        ),
        (
            '[server]\nnamespace = "a;"',
            "kqs.toml: server.namespace: got \"a;\", expected at most 32 letters, digits, '_', '-', or single '.' inside",
        ),
        ("[defaults]\nttl = 1", 'kqs.toml: defaults.ttl: unknown setting "ttl"; the nearest known one is "ttr"'),
        ("[defaults]\nttr = 0.01", "kqs.toml: defaults.ttr: got 0.01, expected a number of seconds from 0.1 to 2147483648"),
        (
            "[defaults]\ntime_limit = 0",
            "kqs.toml: defaults.time_limit: got 0, expected a number of seconds > 0 and <= 10000000000",
        ),
        (
            "[types.x]\ntime_limit = 1e308",
            "kqs.toml: types.x.time_limit: got 1e+308, expected a number of seconds > 0 and <= 10000000000",
        ),
        (
            "[defaults]\nkeep = inf",
            "kqs.toml: defaults.keep: got Infinity, expected a number of seconds from 0 to 10000000000, or -1 for ever",
        ),
        ("[worker]\ngrace_s = 1e308", "kqs.toml: worker.grace_s: got 1e+308, expected a number from -1 to 10000000000"),
        (
            "[store]\nkeep_success_count = 9223372036854775808",
            "kqs.toml: store.keep_success_count: got 9223372036854775808, expected an integer from 0 to 1000000000000",
        ),
        (
            "[journal]\nmin_free_bytes = 0x1" + "0" * 4000,
            "kqs.toml: journal.min_free_bytes: "
            "got a number of too many digits, expected an integer from 0 to 1152921504606846976",
        ),
        ("[server]\nport = 1" + "0" * 5000, "kqs.toml: a number has too many digits"),
        ("a = " + "[" * 5000, "kqs.toml: nested too deep"),
        ('[types.x]\nbackoff = "no"', 'kqs.toml: types.x.backoff: got "no", expected "constant" or "exponential"'),
        ("[types.x]\nper_s = 5.0", "kqs.toml: types.x.per_s: got 5.0, expected a rate beside it, which it is the time of"),
        ("[types.x]\nmax_running = -1", "kqs.toml: types.x.max_running: got -1, expected an integer from 0 to 1000000000"),
        ("[types.x]\nweight = 0", "kqs.toml: types.x.weight: got 0, expected an integer from 1 to 10000"),
        (
            '[types.x]\nfan_out = ["x"]',
            'kqs.toml: types.x.fan_out: got ["x"], expected at most 100 other types, each once, none with a fan_out',
        ),
        (
            '[types.x]\nfan_out = ["a", "a"]',
            'kqs.toml: types.x.fan_out: got ["a", "a"], expected at most 100 other types, each once, none with a fan_out',
        ),
        (
            '[types.x]\nfan_out = ["a"]\n[types.a]\nfan_out = ["b"]',
            'kqs.toml: types.x.fan_out: got ["a"], expected at most 100 other types, each once, none with a fan_out',
        ),
        ("[types.x]\nweight = 10001", "kqs.toml: types.x.weight: got 10001, expected an integer from 1 to 10000"),
        ("[types]\nx = 0", "kqs.toml: types.x: got 0, expected a section, [types.x]"),
        (
            '[types.x]\ncommand = "./x.sh"',
            'kqs.toml: types.x.command: got "./x.sh", expected a list of text without NUL, the first a program: a path, '
            "or a name in PATH",
        ),
        (
            '[types.x]\ncommand = ["a", 1]',
            'kqs.toml: types.x.command: got ["a", 1], expected a list of text without NUL, the first a program: a path, '
            "or a name in PATH",
        ),
        (
            '[types.x]\ncommand = ["a\\u0000"]',
            'kqs.toml: types.x.command: got ["a\\u0000"], expected a list of text without NUL, the first a program: a path, '
            "or a name in PATH",
        ),
        (
            "[types.x]\nmemory_bytes = 1",
            "kqs.toml: types.x.memory_bytes: got 1, expected a command beside it, whose limit it is",
        ),
        (
            '[types.x]\ncommand = ["a"]\noutput_bytes = 16777217',
            "kqs.toml: types.x.output_bytes: got 16777217, expected an integer from 0 to 16777216",
        ),
        (
            '[types.x]\ncommand = ["a"]\ncpu_s = 0.5',
            "kqs.toml: types.x.cpu_s: got 0.5, expected an integer from 0 to 1000000000",
        ),
        (
            '[types.x]\ncomand = ["a"]',
            'kqs.toml: types.x.comand: unknown setting "comand"; the nearest known one is "command"',
        ),
        (
            '[defaults]\ncommand = ["a"]',
            'kqs.toml: defaults.command: unknown setting "command"',
        ),
        ('[types."a\\tb"]', 'kqs.toml: types."a\\tb": got "a\\tb", expected a type of 1 to 200 bytes of printable text'),
        ("[server\n", "kqs.toml: line 1, column 8: expected ']' at the end of a table declaration"),
        ('[server]\nhost = "abc', "kqs.toml: line 2, column 12: unterminated string"),
        ("[server]\nhost =", "kqs.toml: line 2, column 7: invalid value"),
    ],
)
def test_mistake_in_the_file_is_one_clear_line(trouble: Told, toml: str, line: str) -> None:
    assert trouble(toml) == line


@pytest.mark.parametrize(
    ("variable", "text", "line"),
    [
        ("KQS_SERVER__PORT", "a", 'environment KQS_SERVER__PORT: server.port: got "a", expected an integer from 0 to 65535'),
        (
            "KQS_SERVER__PORT",
            "[" * 100_000,
            f'environment KQS_SERVER__PORT: server.port: got "{"[" * 59}…, expected an integer from 0 to 65535',
        ),
        (
            "KQS_SERVER__PROT",
            "1",
            'environment KQS_SERVER__PROT: server.prot: unknown setting "prot"; the nearest known one is "port"',
        ),
        (
            "KQS_SEVER__PORT",
            "1",
            'environment KQS_SEVER__PORT: sever: unknown section "sever"; the nearest known one is "server"',
        ),
        (
            "KQS_SERVER__SOCKET_MODE",
            "0660\n",
            'environment KQS_SERVER__SOCKET_MODE: server.socket_mode: got "0660\\n", expected permissions in octal, as "0660"',
        ),
        (
            "KQS_SERVER__NAMESPACE",
            "ab\n",
            'environment KQS_SERVER__NAMESPACE: server.namespace: got "ab\\n", '
            "expected at most 32 letters, digits, '_', '-', or single '.' inside",
        ),
        ("KQS_TYPES__X", "0", "environment KQS_TYPES__X: types.X: got 0, expected a section, [types.X]"),
    ],
)
def test_mistake_in_the_environment_names_the_variable(trouble: Told, variable: str, text: str, line: str) -> None:
    assert trouble(**{variable: text}) == line


def test_section_that_is_no_table_is_told_despite_the_environment(trouble: Told) -> None:
    assert trouble("server = 1", KQS_SERVER__PORT="1").endswith("got 1, expected a section, [server]")


def test_file_that_is_missing_or_a_folder_or_binary_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"[server]\n\xff")
    for name, reason in [
        ("none", "no such file or directory"),
        ("", "is a directory"),
        ("binary", "line 2, column 1: not UTF-8"),
    ]:
        with pytest.raises(StartupError, match=reason):
            load_config(tmp_path / name, {})


def test_file_is_found_by_environment_then_beside_then_in_etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kqs.config.load.DEFAULT_PATHS", (Path("config/kqs.toml"), tmp_path / "etc.toml"))
    assert find_config({}) is None
    (tmp_path / "etc.toml").touch()
    assert find_config({}) == tmp_path / "etc.toml"
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "kqs.toml").touch()
    assert find_config({}) == Path("config/kqs.toml")
    assert find_config({"KQS_CONFIG": "mine.toml"}) == Path("mine.toml")


def test_without_any_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kqs.config.load.DEFAULT_PATHS", ())
    assert load_config(None, {}) == Config()


def test_store_lies_beside_the_journal_unless_told(load: Load) -> None:
    assert load('[journal]\ndir = "j"').store_path == Path("j/store.sqlite")
    assert load('[store]\nuri = "s.db"').store_path == Path("s.db")


def test_a_parser_that_names_no_place_is_quoted_as_it_is() -> None:
    assert _toml_trouble("no value there", "a =") == "no value there"


@pytest.mark.parametrize(
    ("section", "key"),
    [(section, key) for section in SECTIONS.values() for key, kind in get_type_hints(section).items() if kind in (int, float)],
)
def test_every_number_has_bounds(section: type[object], key: str) -> None:
    meta = meta_of(section, key)
    assert meta.ge is not None
    assert meta.le is not None


def test_sections_are_frozen() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        Config().server.port = 1  # type: ignore[misc]  # as a checker says too


def test_options_of_config_and_job_are_the_same() -> None:
    assert set(OptionFields.__struct_fields__) == {field.name for field in msgspec.structs.fields(Options)}


def test_schedules_give_jobs_and_when(load: Load) -> None:
    config = load(
        '[schedules.a]\ncron = "@daily"\ntype = "x"\ndata = { n = 1 }\nprio = "high"', KQS_SCHEDULES__A__CRON="0 1 * * *"
    )
    section, job = config.schedules["a"]
    assert (section.cron, section.every, section.tz, section.overlap) == ("0 1 * * *", None, "UTC", "allow")
    assert json.loads(job) == {"type": "x", "data": {"n": 1}, "prio": "high"}
    assert load("[schedules.a]\nevery = 5\nfrom = 3\ntype = 'x'").schedules["a"].section.from_ == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[schedules]\nx = 0", "kqs.toml: schedules.x: got 0, expected a section, [schedules.x]"),
        ("[schedules.x]\nevry = 1", 'kqs.toml: schedules.x.evry: unknown setting "evry"; the nearest known one is "every"'),
        ("[schedules.x]\nevery = 1", "kqs.toml: schedules.x: type: missing, expected 1 to 200 bytes of printable text"),
        ('[schedules.x]\nevery = "1"\ntype = "a"', 'kqs.toml: schedules.x.every: got "1", expected a number'),
        (
            '[schedules.x]\ntype = "a"\nfrom = true',
            "kqs.toml: schedules.x.from: got true, expected an RFC 3339 time with its zone, or Unix seconds",
        ),
        ('[schedules.x]\ntype = "a"\nttr = 0', "kqs.toml: schedules.x: ttr: expected a number of seconds from 0.1"),
        ('[schedules.x]\ntype = "a"\ndata = nan', "kqs.toml: schedules.x.data: got NaN, expected what JSON can say"),
        (
            '[schedules.x]\ntype = "a"\ndata = 2026-01-01',
            'kqs.toml: schedules.x.data: got "2026-01-01", expected what JSON can say',
        ),
    ],
)
def test_a_schedule_that_cannot_be_read_is_named(load: Load, text: str, message: str) -> None:
    with pytest.raises(StartupError) as refused:
        load(text)
    assert message in str(refused.value)


def test_a_variable_that_lacks_an_underscore_is_found() -> None:
    environ = dict.fromkeys(("KQS_WORKER_GRACE_S", "KQS_DEFAULTS_ttr", "KQS_log_LEVEL"), "1")
    assert slips_in(environ) == [
        ("KQS_DEFAULTS_ttr", "KQS_DEFAULTS__ttr"),
        ("KQS_WORKER_GRACE_S", "KQS_WORKER__GRACE_S"),
        ("KQS_log_LEVEL", "KQS_log__LEVEL"),
    ]


def test_other_variables_are_no_slips() -> None:
    names = (
        "KQS_SERVER",
        "KQS_CONFIG",
        "KQS_SERVER__PORT",
        "KQS_JOB_ID",
        "KQS_PORT",
        "KQS_SERVER_PORT_14151_TCP",
        "KQS_LOG_",
        "PORT",
    )
    assert slips_in(dict.fromkeys(names, "1")) == []


@pytest.mark.parametrize(
    ("toml", "sections"),
    [("port = 1", "[server]"), ("kind = 1", "[store] or [broker]"), ("ttr = 5", "[defaults]"), ("types = []", None)],
)
def test_a_setting_above_all_sections_is_told_where_it_belongs(trouble: Told, toml: str, sections: str | None) -> None:
    key = toml.partition(" ")[0]
    wanted = "got [], expected a section, [types]" if sections is None else f"stands in no section, expected it in {sections}"
    assert trouble(toml) == f"kqs.toml: {key}: {wanted}"
