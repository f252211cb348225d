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
        import_structlog_alone()
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


#: what structlog would load for a renderer that kqs.log does not use: 5 MB of the server's memory, 70 ms of its start
_OF_A_RENDERER = ("rich", "colorama")


def import_structlog_alone() -> None:
    """Import structlog without what it would load for its own renderer. Afterwards handlers may import that as they like.

    A name that is None in sys.modules cannot be imported.
    """
    kept_out = [name for name in _OF_A_RENDERER if name not in sys.modules]
    sys.modules.update(dict.fromkeys(kept_out))  # type: ignore[arg-type]  # typed as modules only
    try:
        import structlog  # noqa: F401 - for what stays behind in sys.modules
    finally:
        for name in kept_out:
            del sys.modules[name]
