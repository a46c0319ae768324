"""Writes a shim: a folder that looks like a virtual environment and holds one program."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from bridgehold import writes
from bridgehold.errors import ConfigError, UsageError
from bridgehold.faces.legacy.python import SHIM_FILE
from bridgehold.faces.legacy.values import ShimFile

_LONGEST_FIRST_LINE = 120
_PROGRAM = '''\
{first}
"""Runs python in a sandbox of Bridgehold. Written by `bridgehold shim`; make it anew with that."""
from bridgehold.faces.legacy.python import main

main(__file__)
'''
_PYVENV = "home = {home}\ninclude-system-site-packages = false\nprompt = bridgehold-{profile}\n"


def first_line(interpreter: str) -> str:
    """How the kernel finds the interpreter, ours: ``-I`` keeps the caller's PYTHONPATH and folder out of it.

    A path that is too long for the kernel, or has a space, is started by the shell (pure).
    """
    line = f"#!{interpreter} -I"
    if len(line) <= _LONGEST_FIRST_LINE and " " not in interpreter:
        return line
    quoted = interpreter.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
    return f"#!/bin/sh\n'''exec' \"{quoted}\" -I \"$0\" \"$@\"\n' '''"


def check_folder(folder: Path) -> None:
    """Raise `UsageError` where `folder` is somebody's own and no shim."""
    if folder.exists() and any(folder.iterdir()) and not (folder / SHIM_FILE).is_file():
        raise UsageError(
            f"{folder} is there already, and is no shim",
            hint="Name a folder that does not exist; your own virtual environment is not needed any more.",
        )


def write_shim(folder: Path, given: ShimFile, *, interpreter: str = sys.executable) -> Path:
    """Make or renew the shim in `folder`; the program's path. `UsageError` over somebody's own folder."""
    check_folder(folder)
    program = folder / "bin" / "python3"
    try:
        writes.make_folder(program.parent)
        text = _PROGRAM.format(first=first_line(interpreter))
        # Whole or not at all, each: a worker may be starting from it at this moment.
        writes.replace(folder / SHIM_FILE, msgspec.json.format(msgspec.json.encode(given)) + b"\n")
        writes.replace(folder / "pyvenv.cfg", _PYVENV.format(home=program.parent, profile=given.profile))
        for name in ("python3", "python"):
            writes.replace(program.with_name(name), text, mode=0o755, beneath=folder)
    except OSError as error:
        raise ConfigError(f"the shim can't be written: {error}", where=str(folder)) from error
    return program
