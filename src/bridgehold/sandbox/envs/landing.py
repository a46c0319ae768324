"""Where each member of a wheel lands in an environment, and whether it may land there (pure).

Refused are files that an interpreter runs or obeys without being asked (``.pth`` and ``.start`` at
the top of site-packages, ``sitecustomize``, ``pyvenv.cfg``), files outside what a wheel has business
with, and top-level names of the standard library or of Bridgehold.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping

import msgspec

from bridgehold.sandbox.envs.values import Finding, Interpreter

_AUTORUN = (".pth", ".start")
HARMLESS_PTH = frozenset(
    {
        "2638ce9e2500e572a5e0de7faed6661eb569d1b696fcba07b0dd223da5f5d224",
        "7ea7ffef3fe2a117ee12c68ed6553617f0d7fd2f0590257c25c484959a3b7373",
    }
)
"""By content: ``distutils-precedence.pth`` of setuptools 49 to 59 and from 60 on. It isn't installed, so that
what it would import, which another wheel could bring, is not imported either."""
_METADATA = (".dist-info", ".egg-info", ".data")
"""What `importlib.metadata` takes for a distribution's, in any case of letters; and what only wheels hold."""
_CUSTOMIZE = frozenset({"sitecustomize", "usercustomize"})
_RESERVED_SCRIPTS = re.compile(r"(python|pypy|activate|deactivate)([0-9.w]|$).*", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_DATA_ROOTS = ("share/", "etc/")
"""What the data scheme may hold: inert files that no interpreter, loader or shell looks for by itself.
Manual pages and desktop files are common there (sympy, notebook extensions); anything else is refused."""


class Landing(msgspec.Struct, frozen=True, kw_only=True):
    """`path` is relative to the environment; empty: it is not installed."""

    path: str
    script: bool = False
    """A command: executable, and ``#!python`` becomes the environment's own."""


class WheelLayout(msgspec.Struct, frozen=True, kw_only=True):
    """The names that decide where the members of one wheel go."""

    dist_info: str
    data: str
    site: str
    """site-packages, relative to the environment."""
    include: str

    @classmethod
    def of(cls, dist_info: str, interpreter: Interpreter) -> WheelLayout:
        """The folders of a wheel whose metadata lie in `dist_info`."""
        stem = dist_info.removesuffix(".dist-info")
        return cls(
            dist_info=dist_info,
            data=stem + ".data",
            site=interpreter.site_packages,
            include=f"include/site/python{interpreter.minor}/{stem.split('-')[0]}",
        )


def land(name: str, layout: WheelLayout, *, allow_pth: bool) -> Landing | Finding:
    """Where member `name` (no folder) lands, or why it may not."""
    top, _, rest = name.partition("/")
    if top != layout.data:
        return _in_site(name, name, layout, allow_pth=allow_pth)
    scheme, _, inner = rest.partition("/")
    if inner and scheme in ("purelib", "platlib"):
        return _in_site(name, inner, layout, allow_pth=allow_pth)
    return _in_data(name, scheme, inner, layout)


def _in_data(name: str, scheme: str, inner: str, layout: WheelLayout) -> Landing | Finding:
    detail = "a file that belongs to no scheme"
    match scheme if inner else "":
        case "scripts" if _is_script(inner):
            return Landing(path=f"bin/{inner}", script=True)
        case "scripts":
            return Finding(rule="script", file=name, detail="a command that would stand in for another")
        case "headers":
            return Landing(path=f"{layout.include}/{inner}")
        case "data" if inner.startswith(_DATA_ROOTS):
            return Landing(path=inner)
        case "data" if inner == "pyvenv.cfg":
            detail = "would replace the environment's own pyvenv.cfg"
        case "data":
            detail = f"lands outside: the data scheme may hold {' and '.join(_DATA_ROOTS)} only"
    return Finding(rule="data", file=name, detail=detail)


def script_faults(entry_points: Mapping[str, str], where: str) -> Iterator[Finding]:
    """Commands that entry points ask for and that may not be made."""
    for name in entry_points:
        if not _is_script(name):
            yield Finding(
                rule="script", file=where, detail=f"the command {name[:80]!r} would stand in for another"
            )


def _in_site(name: str, path: str, layout: WheelLayout, *, allow_pth: bool) -> Landing | Finding:
    top, _, rest = path.partition("/")
    module = top.split(".", 1)[0].casefold()
    rule = detail = ""
    if top.casefold().endswith(_METADATA):
        if not rest or top != layout.dist_info or path != name:
            rule, detail = "metadata", "metadata of another distribution"
    elif not rest and top.lower().endswith(_AUTORUN):
        if allow_pth:
            return Landing(path="")  # or a worker's children would run it, and the worker doesn't
        rule, detail = "pth", "runs code at every start of an interpreter"
    elif module in _CUSTOMIZE:
        rule, detail = "sitecustomize", "runs code at every start of an interpreter"
    elif not rest and top.casefold() == "pyvenv.cfg":
        rule, detail = "data", "a pyvenv.cfg"
    elif module.startswith("bridgehold"):
        rule, detail = "shadow", "a name of Bridgehold's own"
    elif _is_importable(top, folder=bool(rest)) and module in _STDLIB:
        rule, detail = "shadow", f"shadows the standard library's {module}"
    if rule:
        return Finding(rule=rule, file=name, detail=detail)
    if "__pycache__" in path.split("/")[:-1] or path == f"{layout.dist_info}/RECORD":
        return Landing(path="")  # made anew: compiled code says nothing of the source that it stands for
    return Landing(path=f"{layout.site}/{path}")


_STDLIB = frozenset(name.casefold() for name in sys.stdlib_module_names)


def _is_importable(top: str, *, folder: bool) -> bool:
    return top.isidentifier() if folder else top.endswith((".py", ".pyc", ".so", ".pyd"))


def _is_script(name: str) -> bool:
    return _PLAIN.fullmatch(name) is not None and _RESERVED_SCRIPTS.fullmatch(name) is None
