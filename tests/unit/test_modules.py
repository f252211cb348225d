import ast
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import kqs
from kqs import handlers
from kqs.config import CommandSection, Config
from kqs.errors import ExitCode, StartupError
from kqs.handlers import Registry
from kqs.minding.command import Command
from kqs.minding.limits import Limits
from kqs.modules import NEEDED, load_modules, with_commands


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    monkeypatch.setattr(handlers, "default_registry", registry)
    return registry


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def test_a_module_in_the_current_directory_is_found(here: Path, registry: Registry) -> None:
    (here / "shop_found.py").write_text("import kqs\n@kqs.handler('order')\ndef order(data): ...\n")
    assert load_modules(["shop_found"]) is registry
    assert registry.types == {"order"}


def test_loading_twice_is_loading_once(here: Path, registry: Registry) -> None:
    (here / "shop_twice.py").write_text("import kqs\n@kqs.handler('order')\ndef order(data): ...\n")
    load_modules(["shop_twice"])
    del sys.modules["shop_twice"]
    load_modules(["shop_twice", "shop_twice"])
    assert registry.types == {"order"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "ModuleNotFoundError: No module named '{name}'"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all' ({path}:1)"),
        ("x = 1\n1 / 0", "ZeroDivisionError: division by zero ({path}:2)"),
        ("def broken(:", "SyntaxError: invalid syntax ({name}.py, line 1)"),
        ("raise SystemExit(3)", "SystemExit: 3 ({path}:1)"),
        ("import kqs\nkqs.handler('a', ttl=1)(print)", 'unknown option "ttl"; the nearest known one is "ttr"'),
    ],
)
def test_a_module_that_cannot_be_loaded_is_one_line_and_exit_78(here: Path, text: str | None, fault: str, request: Any) -> None:
    name = f"shop_{abs(hash(fault))}"
    path = here / f"{name}.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StartupError) as caught:
        load_modules([name])
    assert caught.value.exit_code == 78
    assert str(caught.value).startswith(f"[worker] modules: cannot load {name!r}: ")
    assert fault.format(name=name, path=path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "module"), [("shop_file.py", "shop_file"), ("./shop_file.py", "shop_file"), ("./a/b.py", "a.b"), ("a/b", "a.b")]
)
def test_a_file_in_the_place_of_a_module_is_told_what_to_say(here: Path, name: str, module: str) -> None:
    (here / "shop_file.py").write_text("raise SystemExit")
    with pytest.raises(
        StartupError, match=rf"cannot load '{name}': expected the name of a module, as python -m takes it: {module}$"
    ):
        load_modules([name])


HANDLER = "import kqs\n@kqs.handler('order')\ndef order(data): ...\n"


def _refused(here: Path, name: str) -> str:
    """Return how a user's module of this name is refused."""
    top, _, rest = name.partition(".")
    file = here / top / "__init__.py" if rest else here / f"{top}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(HANDLER)
    if rest:
        (here / top / f"{rest}.py").write_text(HANDLER)
    with pytest.raises(StartupError) as caught:
        load_modules([name])
    assert caught.value.exit_code == 78
    assert str(file) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["queue", "time", "msgspec", "kqs", "email.orders"])
def test_a_name_that_is_taken_is_refused_naming_both_files(here: Path, registry: Registry, name: str) -> None:
    import email  # noqa: F401 - loaded
    import queue  # noqa: F401

    refusal = _refused(here, name)
    top = name.partition(".")[0]
    assert (getattr(sys.modules[top], "__file__", None) or "built into Python") in refusal
    assert not registry.types


@pytest.mark.parametrize("name", ["email", "email.orders", "code", "pydantic", "motor.orders"])
def test_a_name_of_what_is_imported_later_is_refused_naming_both_files(
    here: Path, registry: Registry, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = name.partition(".")[0]
    needed = find_spec(top)
    monkeypatch.delitem(sys.modules, top, raising=False)
    refusal = _refused(here, name)
    assert needed is not None
    assert str(needed.origin) in refusal
    assert not registry.types
    assert top not in sys.modules


def test_a_module_of_the_standard_library_itself_may_be_named(here: Path, registry: Registry) -> None:
    with capture_logs() as logged:
        load_modules(["colorsys"])
    assert [line["event"] for line in logged] == ["a module of [worker] modules registers no handler"]


def test_an_installed_package_may_be_run_from_its_checkout(here: Path, registry: Registry) -> None:
    installed = here / "installed"
    installed.mkdir()
    for folder in (installed, here):
        (folder / "shop_installed.py").write_text(HANDLER)
    sys.path.append(str(installed))
    load_modules(["shop_installed"])
    assert registry.types == {"order"}


def test_whatever_the_server_imports_is_known_as_needed() -> None:
    files = Path(kqs.__file__).parent.rglob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    assert {name.partition(".")[0] for name in names} - NEEDED == {"kqs", "pytest_asyncio"}  # the latter is of tests


def test_a_package_with_a_name_of_its_own_may_hold_a_queue(here: Path, registry: Registry) -> None:
    (here / "shop_parts").mkdir()
    (here / "shop_parts/queue.py").write_text(HANDLER)
    with capture_logs() as logged:
        load_modules(["shop_parts.queue"])
    assert registry.types == {"order"}
    assert not logged


def test_a_module_that_registers_nothing_is_warned_of(here: Path, registry: Registry) -> None:
    (here / "shop_empty.py").write_text("def order(data): ...\n")
    with capture_logs() as logged:
        load_modules(["shop_empty"])
    [line] = logged
    assert (line["log_level"], line["module"], line["file"]) == ("warning", "shop_empty", str(here / "shop_empty.py"))


def test_a_module_that_another_one_imported_is_not_warned_of(here: Path, registry: Registry) -> None:
    (here / "shop_first.py").write_text("import shop_second\n" + HANDLER)
    (here / "shop_second.py").write_text(HANDLER.replace("'order'", "'invoice'"))
    with capture_logs() as logged:
        load_modules(["shop_first", "shop_second"])
    assert not logged


@pytest.mark.parametrize("fault", ["KeyboardInterrupt()", "GeneratorExit()", "type('Odd', (BaseException,), {})()", "Mute()"])
def test_whatever_an_import_raises_is_one_line(here: Path, registry: Registry, fault: str) -> None:
    name = f"shop_raises_{len(fault)}"
    mute = "class Mute(Exception):\n    def __str__(self): raise KeyboardInterrupt\n"
    (here / f"{name}.py").write_text(f"{mute}raise {fault}\n")
    with pytest.raises(StartupError, match="cannot load"):
        load_modules([name])


def test_commands_stand_beside_the_handlers_of_modules(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add("order", lambda data: None)
    section = CommandSection(command=["./resize.sh", "--fast"], cpu_s=3)
    both = with_commands(registry, Config(commands={"resize": section}, folder=Path("/srv")))
    assert both.types == {"order", "resize"}
    assert both.commands == {"resize": Command(["./resize.sh", "--fast"], "/srv", 2**20, Limits(cpu_s=3))}
    assert registry.types == {"order"}


def test_a_type_with_a_function_and_a_command_is_refused(registry: Registry) -> None:
    registry.add("order", len)
    with pytest.raises(StartupError) as caught:
        with_commands(registry, Config(commands={"order": CommandSection(command=["true"])}))
    assert str(caught.value) == "two handlers for type 'order': <built-in function len> and the command in [types.order]"
    assert caught.value.exit_code == ExitCode.CONFIG
