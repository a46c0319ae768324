"""The bridge's sources, compiled once in the zygote and executed in each fork for the first time.

The zygote parses them and runs none of it. Without this each session would compile its bridge anew:
the folder is read-only, so Python keeps nothing.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
from types import CodeType
from typing import Any, Dict

_MAX_FILES, _MAX_BYTES = 64, 1 << 20

_codes: Dict[str, CodeType] = {}


def compile_all(folder: str) -> None:
    """Of the folder's own files, as many as are worth it. What doesn't compile fails in the fork, by name."""
    if not os.path.isdir(folder):
        return
    names = sorted(name for name in os.listdir(folder) if name.endswith(".py"))[:_MAX_FILES]
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.path.getsize(path) <= _MAX_BYTES:
            with open(path, "rb") as file:
                source = file.read(_MAX_BYTES)
            try:
                _codes[path] = compile(source, path, "exec", dont_inherit=True)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        return _codes.get(self.path) or super().get_code(fullname)


def forget() -> None:
    """Take every module from its file again: it may have changed since the zygote was made."""
    _codes.clear()


def use(folder: str) -> None:
    """From now on modules of `folder` are taken from what was compiled."""
    hook = importlib.machinery.FileFinder.path_hook((_Loader, importlib.machinery.SOURCE_SUFFIXES))

    def only(path: str) -> Any:
        if path != folder:
            raise ImportError
        return hook(path)

    sys.path_hooks.insert(0, only)
    sys.path_importer_cache.pop(folder, None)
