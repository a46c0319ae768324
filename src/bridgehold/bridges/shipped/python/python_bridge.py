"""Runs Python code, statement by statement as a REPL would, in one namespace per session."""

from __future__ import annotations

import ast
import builtins
import linecache
import platform
import sys
import types
from typing import Any

from bridgehold_sdk import Bridge, NotPlain, Session, operation
from bridgehold_sdk.plain import clean_text, to_plain

REPR_CHARACTERS = 16 * 1024
SOURCES_KEPT = 100


class PythonBridge(Bridge):
    name = "python"
    version = "0.1.0"

    def open(self, session: Session) -> None:
        self._count = 0
        for name in ("exit", "quit"):
            setattr(builtins, name, sys.exit)
        self._fresh()

    def framework(self) -> dict[str, Any]:
        return {"name": "python", "version": platform.python_version(), "capabilities": ["execute"]}

    @operation(effect="run", resource="namespace")
    def execute(self, code: str) -> dict[str, Any]:
        """The host adds what was written. An exception becomes the fault, with the code's own traceback."""
        __tracebackhide__ = True
        present, value = self._run(code)
        shown, cut = _shown(value) if present else (None, False)
        return {
            "value": _json(value) if present else None,
            "repr": shown,
            "type": type(value).__name__ if present else None,
            "truncated": cut,
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
        self._namespace["__builtins__"] = builtins

    def _run(self, code: str) -> tuple[bool, Any]:
        """Whether the last statement was an expression, and its value."""
        __tracebackhide__ = True
        self._count += 1
        name = f"<execute {self._count}>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        linecache.cache.pop(f"<execute {self._count - SOURCES_KEPT}>", None)
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), self._namespace)  # noqa: S102 - what the operation is for
        if last is None:
            return False, None
        expression = compile(ast.Expression(last.value), name, "eval")
        value = eval(expression, self._namespace)  # noqa: S307 - as above
        if value is not None:
            self._namespace["_"] = value
        return value is not None, value


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
