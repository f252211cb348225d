"""`make` installs what the locks name and nothing else, whatever has been released since."""

import base64
import hashlib
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path
from subprocess import CompletedProcess, run

import pytest

from tests.support.serving import ROOT


def make_wheel(folder: Path, name: str, version: str, metadata: str = "") -> str:
    """Build an empty package; return the line of a lock that names it."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
        wheel.writestr(f"{info}/RECORD", "".join(map(record, files, files.values())) + f"{info}/RECORD,,\n")
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def record(file: str, text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    return f"{file},sha256={digest},{len(text)}\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile in a folder whose locks name packages of a local index."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "index").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/runtime.stamp").touch()
    return tmp_path


def make_dev(checkout: Path, lock: str) -> CompletedProcess[str]:
    """Let make install `lock` into an environment of its own, with the pip that comes with this Python."""
    (checkout / "requirements-dev.lock").write_text(lock)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "PIP_", "COV", "VIRTUAL_ENV"))}
    environ = kept | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(checkout / "index")}
    command = ["make", "-o", ".cache/runtime.stamp", ".venv/bin/python", ".cache/dev.stamp"]
    python = f"PYTHON={sys._base_executable}"  # type: ignore[attr-defined]  # that of a venv, which has no public name
    return run([*command, python], cwd=checkout, env=environ, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_an_extra_whose_package_was_released_anew_installs_the_locked_version(checkout: Path) -> None:
    index = checkout / "index"
    user = make_wheel(index, "user", "1.0", "Requires-Dist: base[more]>=1\n")
    base = make_wheel(index, "base", "1.0", "Provides-Extra: more\n")
    make_wheel(index, "base", "2.0", "Provides-Extra: more\n")
    done = make_dev(checkout, base + user)
    assert (done.returncode, done.stderr) == (0, "")
    shown = run([checkout / ".venv/bin/python", "-c", "import base; print(base.VERSION)"], capture_output=True, text=True)
    assert shown.stdout == "1.0\n"


@pytest.mark.slow
def test_a_lock_that_lacks_a_package_is_refused(checkout: Path) -> None:
    done = make_dev(checkout, make_wheel(checkout / "index", "user", "1.0", "Requires-Dist: base>=1\n"))
    assert done.returncode != 0
    assert "base" in done.stdout + done.stderr
    assert not (checkout / ".cache/dev.stamp").exists()


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile"])
def test_every_install_of_a_lock_resolves_nothing_and_is_checked(name: str) -> None:
    text = (ROOT / name).read_text().replace("$(INSTALL)", "pip install --no-deps")
    installs = [line for line in text.splitlines() if re.search(r"pip\S* install .*-r ", line)]
    assert installs
    assert all("--no-deps" in line and "--require-hashes" in line for line in installs)
    assert re.search(r"(pip|\$\(PIP\)) check", text)
