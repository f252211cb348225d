"""`kqs serve`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from kqs.process.init import become_init


@click.command("serve")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="TOML file of settings. Default: $KQS_CONFIG, ./config/kqs.toml, /etc/kqs/kqs.toml, the first there is.",
)
def serve_command(config: Path | None) -> int:
    """Run a server in the foreground until SIGTERM, Ctrl-C or `kqs call quit`."""
    become_init()
    with uncollected():
        from kqs.config import find_config, load_config

        source = config or find_config(os.environ)
        settings = load_config(source, os.environ)
        import_structlog_without_rich()
        from kqs import daemon

    return daemon.serve(settings, source)


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage as modules are imported: they make none, and the looks were an eighth of a server's start."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def import_structlog_without_rich() -> None:
    """Keep out what structlog would load for a renderer that kqs.log does not use: 5 MB of the server's 45, 70 ms of its start.

    A name that is None in sys.modules cannot be imported. Afterwards handlers may import rich as they like.
    """
    if "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # typed as modules only
    try:
        import structlog  # noqa: F401 - for what stays behind in sys.modules
    finally:
        del sys.modules["rich"]
