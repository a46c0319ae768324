"""Sets the interpreter up as it is outside a sandbox, in one way for cold, forked and script workers.

Runs before any code of a bridge's is imported, and again in each fork, since imported code may have changed
it. `docs/reference/guest-python.md` lists what a guest finds.
Standard library only, Python 3.10 and up.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
import types
from collections import namedtuple
from importlib.machinery import BuiltinImporter
from typing import Any

from . import child

CACHED = "/env/cache/matplotlib"
_USUAL_FLAGS = {
    "isolated": 0,
    "ignore_environment": 0,
    "no_site": 0,
    "safe_path": False,
    "dont_write_bytecode": 0,
}
"""Flags that our own command line sets, so that no other code runs before ours, with their usual values."""


def set_up() -> types.ModuleType:
    """Set arguments, builtins, flags and processors, and return a new ``__main__``. May be called again."""
    sys.argv[:] = [""]
    sys.orig_argv[:] = [sys.executable]
    sys.dont_write_bytecode = False
    add_builtins()
    show_flags()
    child.share_limits()
    lay_caches()
    return fresh_main()


def lay_caches() -> None:
    """Copy what was made with the environment to where libraries look for it and may write it anew.

    That is matplotlib's list of fonts. A folder for it that can't be had is no session's end.
    """
    folder = os.path.join(os.environ.get("XDG_CACHE_HOME", "/scratch/.cache"), "matplotlib")
    try:
        for name in os.listdir(CACHED):
            os.makedirs(folder, exist_ok=True)
            with (
                open(os.path.join(CACHED, name), "rb") as made,
                open(os.path.join(folder, name), "xb") as own,
            ):
                own.write(made.read())
    except OSError:
        return


def add_builtins() -> None:
    """Add the builtins of `site`, without running it: it would run the environment's .pth files."""
    import site  # while `sys.flags` says that it was not wanted

    for add in (site.setquit, site.setcopyright, site.sethelper):
        add()
    site.ENABLE_USER_SITE = False


def show_flags() -> None:
    """Have `sys.flags` show the usual values instead of those of our own command line.

    `subprocess` and `multiprocessing` start interpreters with these flags. With ``-I -S`` those would find
    none of the environment's packages.
    """
    own: Any = sys.flags
    names = getattr(type(own), "__match_args__", None)
    if names is None or isinstance(own, _Shown):
        return
    kind: Any = type("flags", (_Shown, namedtuple("flags", names)), {"__slots__": ()})
    kind.__module__ = "sys"
    for name in dir(own):  # counts, and what newer Pythons keep beside the sequence
        if not name.startswith("__") and not hasattr(kind, name):
            setattr(kind, name, getattr(own, name))
    sys.flags = kind(*(_USUAL_FLAGS.get(name, getattr(own, name)) for name in names))


class _Shown:
    """Prints as the interpreter's own."""

    __slots__ = ()

    def __repr__(self) -> str:
        named: Any = self
        return f"sys.flags({', '.join(f'{name}={value!r}' for name, value in named._asdict().items())})"


def fresh_main() -> types.ModuleType:
    """Put a new ``__main__`` in the place of ours, with the names that a program's has at its start.

    It has no `__file__`: `multiprocessing` would run that file, which is ours, in each child that it starts.
    """
    main = types.ModuleType("__main__")
    begins: dict[str, Any] = {"__builtins__": builtins, "__loader__": BuiltinImporter}
    if sys.version_info < (3, 14):
        begins["__annotations__"] = {}
    main.__dict__.update(begins)
    sys.modules["__main__"] = main
    return main


def default_signals() -> None:
    """Give every signal a new interpreter's handler; the launcher or the zygote may have set others.

    SIGPIPE and SIGXFSZ stay ignored, so that writes fail with an error; SIGINT raises `KeyboardInterrupt`.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
