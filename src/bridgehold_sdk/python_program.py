"""One program as ``python`` would run it: a copy of the session's interpreter with its own ``__main__``."""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
import types
from importlib.machinery import BuiltinImporter, SourceFileLoader
from typing import Any

from bridgehold_sdk.streams import end_child, remember_source

_NAMES = {"code": "<string>", "stdin": "<stdin>"}
_STARTS = frozenset(
    [
        *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"),
        *("os.fork", "os.forkpty", "pty.spawn"),
    ]
)
"""Audit events of whatever may read standard input by itself."""
_OF_A_SESSION = ("_", "In", "Out", "artifacts", "display", "update_display", "clear_output", "final")
"""Names that a session's code has, and no program's."""
_ARGUMENT = {"code": "-c", "stdin": "-"}


class Invocation:
    """``-c TEXT``, ``-m TEXT``, a file of that name, or code that came by standard input; its arguments."""

    def __init__(
        self,
        kind: str,
        text: str,
        args: list[str],
        folder: str,
        environment: dict[str, str],
        wanted: int = -1,
    ) -> None:
        """`wanted`: a descriptor to write to once its standard input may be read; -1: it has all there is."""
        self.wanted = wanted
        self.kind = kind
        self.text = text
        self.args = args
        self.folder = folder
        self.environment = environment

    def become(self) -> None:
        """In a new process: run it, and end as the interpreter would. Never comes back."""
        __tracebackhide__ = True
        error: BaseException | None = None
        try:
            self._run()
        except BaseException as raised:  # noqa: BLE001 - the interpreter's own last border
            error = raised
        end_child(error)

    def _run(self) -> None:
        __tracebackhide__ = True
        _open_streams(_Wanted(self.wanted))
        os.environ.update(self.environment)
        if self.folder:
            os.chdir(self.folder)
        sys.argv[:] = [_ARGUMENT.get(self.kind, self.text), *self.args]
        sys.orig_argv[:] = [sys.executable, *sys.argv]
        first = {"module": os.getcwd(), "file": os.path.dirname(os.path.abspath(self.text))}
        sys.path[0] = first.get(self.kind, "")
        sys.displayhook = sys.__displayhook__
        names = _fresh_main()
        if self.kind == "module":
            runpy.run_module(self.text, run_name="__main__", alter_sys=True)
            return
        name = _NAMES.get(self.kind) or os.path.abspath(self.text)
        source: Any = self.text
        if self.kind == "file":
            names.update(__file__=name, __cached__=None, __loader__=SourceFileLoader("__main__", name))
            with open(name, "rb") as file:
                source = file.read()
        else:
            remember_source(name, source)
        code = compile(source, name, "exec", dont_inherit=True)
        exec(code, names)  # noqa: S102 - what it is for


def _fresh_main() -> dict[str, Any]:
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    names = main.__dict__
    names.update(__builtins__=builtins, __loader__=BuiltinImporter)
    if sys.version_info < (3, 14):
        names["__annotations__"] = {}
    for name in _OF_A_SESSION:
        builtins.__dict__.pop(name, None)
    return names


class _Wanted:
    """Says, once, that standard input is wanted: what nobody reads is taken from no caller.

    Also where a child process is started, or the descriptor opened or asked for: its reader says nothing.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._read = os.read

    def watch(self) -> None:
        """From here on, once our own streams are open."""
        if self._descriptor >= 0:
            os.read = self._os_read
            sys.addaudithook(self._seen)

    def __call__(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.write(descriptor, b"1")
            os.close(descriptor)

    def _os_read(self, fd: int, length: int, /) -> bytes:
        if fd == 0:
            self()
        return self._read(fd, length)

    def _seen(self, event: str, args: tuple[Any, ...]) -> None:
        if event in _STARTS or (event == "open" and type(args[0]) is int and args[0] == 0):
            self()


class _Input(io.FileIO):
    """Standard input, whose reader is noticed."""

    wanted: _Wanted

    def readinto(self, buffer: Any, /) -> int:
        self.wanted()
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self.wanted()
        return super().readall()

    def fileno(self) -> int:
        self.wanted()
        return super().fileno()


def _open_streams(wanted: _Wanted) -> None:
    """As a new interpreter's, but for a standard output that shows each line when it ends."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        raw = (_Input if number == 0 else io.FileIO)(number, f"{mode}b", closefd=False)
        raw.name = f"<{name}>"
        if isinstance(raw, _Input):
            raw.wanted = wanted
        buffered: Any = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
        errors = "backslashreplace" if number == 2 else "surrogateescape"
        stream = io.TextIOWrapper(buffered, "utf-8", errors, line_buffering=number > 0)
        setattr(stream, "mode", mode)  # noqa: B010 - as the interpreter does; for a type checker it is read-only
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    wanted.watch()
