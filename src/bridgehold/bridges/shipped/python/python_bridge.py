"""Runs Python code, statement by statement as a REPL would, in one namespace per session."""

from __future__ import annotations
import __future__

import _sitebuiltins
import ast
import builtins
import contextlib
import functools
import io
import linecache
import operator
import platform
import sys
import types
from importlib.machinery import BuiltinImporter
from typing import Any, NoReturn

from bridgehold_sdk import Bridge, NotPlain, Session, operation
from bridgehold_sdk.plain import clean_text, to_plain

OUTPUT_BYTES = 256 * 1024
REPR_CHARACTERS = 16 * 1024
SOURCES_KEPT = 100
FUTURES = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)


class Captured(io.RawIOBase):
    """Keeps the first and the last half of what is written; the middle is counted and cut."""

    def __init__(self, limit: int = OUTPUT_BYTES) -> None:
        super().__init__()
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.cut = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        new = bytes(data)
        room = self._half - len(self._head)
        self._head += new[:room] if room > 0 else b""
        self._tail += new[max(0, room) :]
        if len(self._tail) > 2 * self._half:
            self._trim()
        return len(new)

    def text(self) -> str:
        self._trim()
        head, tail = (part.decode("utf-8", "replace") for part in (self._head, self._tail))
        if not self.cut:
            return (self._head + self._tail).decode("utf-8", "replace")
        return f"{head}\n… {self.cut} bytes cut …\n{tail}"

    def _trim(self) -> None:
        extra = len(self._tail) - self._half
        if extra > 0:
            self.cut += extra
            del self._tail[:extra]


class Exit(_sitebuiltins.Quitter):
    """A prompt's own would close standard input, and the session lives on."""

    def __call__(self, code: Any = None) -> NoReturn:
        raise SystemExit(code)


class PythonBridge(Bridge):
    name = "python"
    version = "0.1.0"

    def open(self, session: Session) -> None:
        self._count = 0
        sys.path.insert(0, "")  # as at a prompt: the working folder
        for name in ("exit", "quit"):
            setattr(builtins, name, Exit(name, "Ctrl-D (i.e. EOF)"))
        self._fresh()

    def framework(self) -> dict[str, Any]:
        return {"name": "python", "version": platform.python_version(), "capabilities": ["execute"]}

    @operation(effect="run", resource="namespace")
    def execute(self, code: str) -> dict[str, Any]:
        """An exception of the code becomes the command's fault, with the code's own traceback."""
        __tracebackhide__ = True
        out, err = Captured(), Captured()
        done = False
        try:
            with _redirected(out, err):
                present, value = self._run(code)
            done = True
        finally:
            if not done:  # a fault has no room for output: the session's log keeps it
                sys.stdout.write(out.text())
                sys.stderr.write(err.text())
        shown, cut = _shown(value) if present else (None, False)
        return {
            "stdout": out.text(),
            "stderr": err.text(),
            "value": _json(value) if present else None,
            "repr": shown,
            "type": type(value).__name__ if present else None,
            "truncated": bool(cut or out.cut or err.cut),
        }

    @operation(effect="configure", resource="namespace")
    def reset(self) -> dict[str, Any]:
        names = [name for name in self._namespace if not name.startswith("__")]
        self._fresh()
        return {"status": "reset", "names": len(names)}

    def _fresh(self) -> None:
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        self._namespace = module.__dict__
        self._namespace.update(__builtins__=builtins, __loader__=BuiltinImporter, __annotations__={})
        self._futures = 0
        builtins.__dict__.pop("_", None)

    def _run(self, code: str) -> tuple[bool, Any]:
        """Whether the last statement was an expression, and its value."""
        __tracebackhide__ = True
        self._count += 1
        name = f"<execute {self._count}>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        linecache.cache.pop(f"<execute {self._count - SOURCES_KEPT}>", None)
        tree: Any = self._compiled(code, name, "exec", ast.PyCF_ONLY_AST)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(self._compiled(tree, name, "exec"), self._namespace)  # noqa: S102 - what the operation is for
        if last is None:
            return False, None
        expression = self._compiled(ast.Expression(last.value), name, "eval")
        value = eval(expression, self._namespace)  # noqa: S307 - as above
        if sys.displayhook is not sys.__displayhook__:
            sys.displayhook(value)  # the code's own
        elif value is not None:
            builtins._ = value  # type: ignore[attr-defined]  # where a prompt keeps it; the caller is shown it
        return value is not None, value

    def _compiled(self, source: Any, name: str, mode: str, flags: int = 0) -> Any:
        """With the futures of earlier commands, as at a prompt, and none of this module's own."""
        code = compile(source, name, mode, flags | self._futures, dont_inherit=True)
        self._futures |= getattr(code, "co_flags", 0) & FUTURES
        return code


@contextlib.contextmanager
def _redirected(out: Captured, err: Captured) -> Any:
    with contextlib.ExitStack() as stack:
        for redirect, raw in ((contextlib.redirect_stdout, out), (contextlib.redirect_stderr, err)):
            text = io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)  # type: ignore[type-var]
            stack.callback(text.flush)
            stack.enter_context(redirect(text))
        yield


def _shown(value: object) -> tuple[str, bool]:
    text = clean_text(repr(value))
    if len(text) <= REPR_CHARACTERS:
        return text, False
    return text[:REPR_CHARACTERS] + f"… {len(text) - REPR_CHARACTERS} characters cut …", True


def _json(value: object) -> Any:
    try:
        return to_plain(value)
    except (NotPlain, RecursionError):
        return None
