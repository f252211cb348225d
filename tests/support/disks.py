"""A small disk of one's own: a tmpfs in a mount namespace that ends with the test, whatever happens to it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.require import missing
from tests.support.serving import SERVE

_PAGE_BYTES = 4096


class Disk:
    """A full disk is made with `fill`, and relieved with `relieve`.

    path: where servers started by `command` see it. seen: where the test itself sees it.
    """

    def __init__(self, path: Path, keeper: subprocess.Popen[bytes], enter: list[str]) -> None:
        self.path = path
        self.seen = Path(f"/proc/{keeper.pid}/root") / path.relative_to("/")
        self._enter = enter

    def command(self, folder: Path, serve: Sequence[str] = SERVE) -> list[str]:
        """Return the command of a server that runs in `folder` and has the disk."""
        return [*self._enter, "sh", "-c", 'cd "$0" && exec "$@"', str(folder), *serve]

    def free_bytes(self) -> int:
        found = os.statvfs(self.seen)
        return found.f_bavail * found.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Leave about so many bytes free."""
        with (self.seen / "ballast").open("ab") as ballast:
            while (size := self.free_bytes() - leave_bytes) >= _PAGE_BYTES:
                with suppress(OSError):  # somebody else took some meanwhile
                    os.posix_fallocate(ballast.fileno(), os.fstat(ballast.fileno()).st_size, size)

    def relieve(self) -> None:
        (self.seen / "ballast").unlink()


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Disk]:
    """Mount a disk of `size_bytes` at `folder`/disk, for as long as the block lasts."""
    path = folder / "disk"
    path.mkdir()
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    mount = f'mount -t tmpfs -o mode=0700,size={size_bytes} tmpfs "$0" && echo mounted && read -r _'
    with subprocess.Popen(
        ["unshare", "--mount", *user, "sh", "-c", mount, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            if keeper.stdout.readline() != b"mounted\n":
                missing("a mount namespace")
            as_user = ["--user", "--preserve-credentials"] if user else []
            yield Disk(path, keeper, ["nsenter", "--target", str(keeper.pid), "--mount", *as_user, "--"])
        finally:
            keeper.kill()
