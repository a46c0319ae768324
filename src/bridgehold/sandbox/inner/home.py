"""The interpreter as a program meets it at home: one set-up for cold, forked and foreign workers.

Run before anything foreign is imported, and once more in each fork, where what was imported may have
changed it. `docs/reference/guest-python.md` says what it gives.
Standard library only, Python 3.10 and up.
"""

from __future__ import annotations

import builtins
import signal
import sys
import types
from collections import namedtuple
from importlib.machinery import BuiltinImporter
from typing import Any

from . import child

_AS_AT_HOME = {
    "isolated": 0,
    "ignore_environment": 0,
    "no_site": 0,
    "safe_path": False,
    "dont_write_bytecode": 0,
}
"""What our own command line sets so that nothing foreign runs before us. It is no choice of the guest's."""


def set_up() -> types.ModuleType:
    """Arguments, builtins, flags, processors; and a ``__main__``, which is given. May be done again."""
    sys.argv[:] = [""]
    sys.orig_argv[:] = [sys.executable]
    sys.dont_write_bytecode = False
    add_builtins()
    show_flags()
    child.share_limits()
    return fresh_main()


def add_builtins() -> None:
    """What `site` adds. It is imported and not run: that would run the environment's .pth files."""
    import site  # while `sys.flags` says that it was not wanted

    for add in (site.setquit, site.setcopyright, site.sethelper):
        add()
    site.ENABLE_USER_SITE = False


def show_flags() -> None:
    """`sys.flags` without our own command line's.

    From it `subprocess`, `multiprocessing` and whoever has a copy of their code take the flags of the
    interpreters that they start. With ``-I -S`` those would find no package of the environment's.
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
    sys.flags = kind(*(_AS_AT_HOME.get(name, getattr(own, name)) for name in names))


class _Shown:
    """Prints as the interpreter's own."""

    __slots__ = ()

    def __repr__(self) -> str:
        named: Any = self
        return f"sys.flags({', '.join(f'{name}={value!r}' for name, value in named._asdict().items())})"


def fresh_main() -> types.ModuleType:
    """A ``__main__`` with what the interpreter's own begins with, in the place of ours.

    It has no file: by that one, `multiprocessing` would run our code again in each child that it starts.
    """
    main = types.ModuleType("__main__")
    begins: dict[str, Any] = {"__builtins__": builtins, "__loader__": BuiltinImporter}
    if sys.version_info < (3, 14):
        begins["__annotations__"] = {}
    main.__dict__.update(begins)
    sys.modules["__main__"] = main
    return main


def default_signals() -> None:
    """What the launcher or the zygote set is not the bridge's to inherit: each as an interpreter begins.

    SIGPIPE and SIGXFSZ stay errors, and SIGINT raises `KeyboardInterrupt`.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
