"""README and docs/: their links lead somewhere, their settings are settings, and no line of the log is left unexplained."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import kqs
from kqs.cli import COMMANDS
from kqs.config import Config, load_config
from kqs.states import STATES_BY_WORD

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
ANCHOR = re.compile(r"\]\(#([^)\s]+)\)")
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVE = re.compile(r"kqs serve\b[^\n]*\n(?P<rest>.*)", re.DOTALL)
TOML = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def settings_of(page: Path, folder: Path) -> list[Config]:
    """Load every block of settings on a page, each as a file of its own."""
    file = folder / "kqs.toml"
    return [load_config(file, {}) for block in TOML.findall(page.read_text()) if file.write_text(block)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = LINK.findall(page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_a_page_leads_to_a_heading(page: Path) -> None:
    text = page.read_text()
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in text.splitlines() if line[:1] == "#"
    }
    assert set(ANCHOR.findall(text)) <= headings


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_asked_in_the_block_that_starts_the_server(page: Path) -> None:
    """Who pastes such a block is refused: the server does not listen yet."""
    starts = [SERVE.search(block) for block in SHELL.findall(page.read_text())]
    assert [start["rest"] for start in starts if start is not None and start["rest"].strip()] == []


def test_every_file_that_a_change_is_led_to_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.partition("## To change X, go to Y")[2].partition("## Where a change goes")[0]
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", table))
    engines = (ROOT / "kqs/store/sqlite", ROOT / "kqs/store/mongo")
    assert named
    assert {
        name for name in named if not ((ROOT / "kqs" / name).exists() or all((engine / name).exists() for engine in engines))
    } == set()


def test_the_table_of_states_has_each() -> None:
    section = (ROOT / "docs" / "overview.md").read_text().partition("## The states of a job")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(STATES_BY_WORD)


def modules_by_folder() -> dict[str, set[str]]:
    """Return the names of the modules in each folder of the package; of commands those that the table of commands lacks."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "kqs").rglob("[!_]*.py"):
        found.setdefault(path.parent.relative_to(ROOT / "kqs").as_posix(), set()).add(path.name)
    found["cli"] -= {f"{module}.py" for module in COMMANDS.values()}
    return found


@pytest.mark.parametrize("folder", sorted(modules_by_folder()))
def test_every_module_stands_in_the_page_of_the_architecture_where_its_folder_does(folder: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text().partition("## Where a change goes")[2]
    named = set(re.findall(r"`(?:kqs/)?([\w/]+\.py)`", page))
    here = {name.removeprefix(f"{folder}/") for name in named if "/" in name} if folder != "." else named
    for section in re.split(r"^(?=\*\*`)", page, flags=re.MULTILINE):
        head = section.partition(":")[0]
        if f"`{folder}/`" in head or (folder == "store/mongo" and "`store/sqlite/`" in head):
            here.update(re.findall(r"`(?:\w+/)?(\w+\.py)`", section))
    assert modules_by_folder()[folder] - here == set()


def test_the_floors_are_drawn_as_they_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (floors,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    page = (ROOT / "docs" / "architecture.md").read_text()
    drawn = page.partition("## Floors")[2].split("```")[1].strip().splitlines()
    names = [line.strip().replace(" │ ", " | ") for line in drawn]
    assert [floor for floor, line in zip(floors, names, strict=True) if not f"{line} ".startswith(f"{floor} ")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_settings_loads(page: Path, tmp_path: Path) -> None:
    settings_of(page, tmp_path)


def test_the_steps_to_a_fleet_change_the_engines_that_they_say(tmp_path: Path) -> None:
    steps = settings_of(ROOT / "docs" / "fleet.md", tmp_path)
    engines = [(step.store.kind, step.broker.kind, len(step.broker.servers)) for step in steps]
    assert engines == [
        ("sqlite", "memory", 1),
        ("sqlite", "beanstalkd", 1),
        ("mongodb", "beanstalkd", 1),
        ("mongodb", "beanstalkd", 2),
    ]
    assert len({step.journal.dir for step in steps if step.store.kind == "mongodb"}) == 1


def test_the_site_builds_and_no_link_of_it_leads_nowhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "build_site.py", tmp_path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (0, str(tmp_path / "site" / "index.html"))
    reference = (tmp_path / "site" / "docs" / "api.html").read_text()
    assert [name for name in kqs.__all__ if name != "__version__" and f">{name}</span>" not in reference] == []


def told_by(module: Path) -> Iterator[str]:
    """Yield the fixed words of what a module logs as a warning or an error, up to a colon or semicolon, or told as lasting."""
    for node in ast.walk(ast.parse(module.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        is_of_log = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in ("log", "_log", "self._log")
        if is_of_log and name in ("warning", "error", "exception"):
            said = node.args[0]
        elif name == "Trouble" and len(node.args) > 1:
            said = node.args[1]
        else:
            continue
        parts = said.values if isinstance(said, ast.JoinedStr) else [said]
        words = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        if words:
            yield re.split("[:;]( |$)", max(words, key=len).strip(" ,"))[0]


#: who says what is explained elsewhere than in operations.md
EXPLAINED_IN = {"library": "library.md"}


@pytest.mark.parametrize("part", sorted(path.stem for path in (ROOT / "kqs").iterdir() if path.stem.isidentifier()))
def test_every_warning_and_error_of_the_log_is_explained(part: str) -> None:
    page = " ".join((ROOT / "docs" / EXPLAINED_IN.get(part, "operations.md")).read_text().split())
    modules = [*(ROOT / "kqs" / part).rglob("*.py"), *(ROOT / "kqs").glob(f"{part}.py")]
    assert [words for module in modules for words in told_by(module) if words not in page] == []
