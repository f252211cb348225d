"""`kqs serve`."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command("serve")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="TOML file of settings. Default: $KQS_CONFIG, ./config/kqs.toml, /etc/kqs/kqs.toml, the first there is.",
)
def serve_command(config: Path | None) -> int:
    """Run a server in the foreground until SIGTERM, Ctrl-C or `kqs call quit`."""
    from kqs import daemon
    from kqs.config import load_config

    return daemon.serve(load_config(config, os.environ))
