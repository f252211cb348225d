"""Build the site: README and docs/ as they stand, what they link to, and the reference; python docs/build_site.py [FOLDER].

Every link and anchor is checked: one that leads nowhere ends it with status 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: what the pages link to beside each other
LINKED = ("config", "deploy", "examples", "Dockerfile", "LICENSE")


def main(folder: Path) -> int:
    """Build it in `folder`/site, from copies in `folder`/site-source. Returns: the status of mkdocs."""
    source = folder / "site-source"
    shutil.rmtree(source, ignore_errors=True)
    (source / "docs").mkdir(parents=True)
    shutil.copy(ROOT / "README.md", source / "index.md")
    for page in (ROOT / "docs").glob("*.md"):
        shutil.copy(page, source / "docs")
    for name in LINKED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "site")]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1", "KQS_SITE_SOURCE": str(source)}
    done = subprocess.run(command, cwd=ROOT, env=environ, check=False, stderr=subprocess.PIPE, text=True)  # noqa: S603 - ours
    told = [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
    print("\n".join(told) if done.returncode else folder / "site" / "index.html", file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".cache"))
