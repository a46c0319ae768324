"""Landlock for a process of ours: what it may open, and whom it reaches. For good, and all its threads."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from bridgehold.errors import UnsupportedError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE, _READ_FILE, _READ_FOLDER = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_BITS = (0, 13, 14, 15, 15, 16)
"""Rights over files that there are, by version."""
_OF_FILES = _EXECUTE | _WRITE | _READ_FILE | 1 << 14 | 1 << 15
"""Those that a rule for what is no folder can have."""
_TCP, _SCOPES = 0b11, 0b11
"""To bind and to connect; abstract sockets and signals."""
READ = _READ_FILE | _READ_FOLDER
CHANGE = READ | _WRITE | sum(1 << bit for bit in (4, 5, 7, 8, 13, 14))
"""Read, write, truncate, and make, rename and remove plain files and folders. No devices, sockets, links."""
USE = _READ_FILE | _WRITE

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Of the kernel's Landlock; 0: it has none."""
    return max(
        0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG)))
    )


def restrict(rules: Iterable[tuple[Path, int]]) -> None:
    """From now on this process opens what the rules say and nothing else, traces nothing, and has no TCP of
    its own (from version 4 on) and signals nobody (from 6 on). It needs no-new-privs.

    A place that isn't there gets no rule. Raises `UnsupportedError` where the kernel refuses.
    """
    known = version()
    handled = (1 << _BITS[min(known, len(_BITS) - 1)]) - 1
    fields = [handled, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0]
    size = 8 * (1 if known < 4 else 2 if known < 6 else 3)
    attributes = struct.pack("=QQQ", *fields)[:size]
    ruleset = _must(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0)))
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights & handled)
        _must(_libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights &= -1 if path.is_dir() else _OF_FILES
        rule = struct.pack("=Qi", rights, place)
        flags = ctypes.c_uint32(0)
        _must(_libc.syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, flags))
    finally:
        os.close(place)


def _must(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise UnsupportedError(f"Landlock refused a rule: {errno.errorcode.get(code, code)}")
    return int(result)
