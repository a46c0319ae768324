"""Commands of an environment, made of what a wheel says (pure)."""

from __future__ import annotations

import re

from bridgehold.sandbox.spec import ENVIRONMENT

MAX_SCRIPT = 1024 * 1024
"""Bytes of a script whose first line is looked at."""
_PYTHON = f"#!{ENVIRONMENT}/bin/python\n"
_OBJECT = re.compile(
    r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*)\s*:\s*(?P<name>[^\W\d]\w*)(?P<rest>(?:\.[^\W\d]\w*)*)"
    r"\s*(?:\[[\w\s,.-]*\])?"
)
_COMMAND = """\
import sys

from {module} import {name}

if __name__ == "__main__":
    sys.exit({name}{rest}())
"""
_ASKS_FOR_PYTHON = re.compile(rb"#!pythonw?(?= |\r?\n)")


def command(asked: str) -> bytes | None:
    """The program for an entry point such as ``package.module:function``; None where it is none."""
    match = _OBJECT.fullmatch(asked.strip())
    if match is None:
        return None
    return (_PYTHON + _COMMAND.format(**match.groupdict())).encode()


def with_interpreter(script: bytes) -> bytes | None:
    """A script that asks for ``#!python`` with the environment's own; None: it stays as it is."""
    match = _ASKS_FOR_PYTHON.match(script)
    if match is None:
        return None
    return _PYTHON.encode() + script[match.end() :].partition(b"\n")[2]
