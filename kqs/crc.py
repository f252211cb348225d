"""CRC-32C, by the extension of the package crc32c, loaded without that package's front.

The front looks up its own version and has a command: what both import took 20 ms of a server's start, and 3 MB of its memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType


def _extension() -> ModuleType:
    """Return what has the function: the front where the package is made in another way."""
    package = find_spec("crc32c")
    spec = PathFinder.find_spec("crc32c._crc32c", package.submodule_search_locations) if package is not None else None
    if spec is None or spec.loader is None:
        return importlib.import_module("crc32c")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: of the data, and the CRC of what stands before it
crc32c: Callable[..., int] = _extension().crc32c
