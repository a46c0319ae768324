"""Runs Python code, statement by statement as a REPL would, in one namespace per session."""

from __future__ import annotations
import __future__

import _sitebuiltins
import ast
import builtins
import contextlib
import functools
import json
import linecache
import operator
import os
import platform
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from importlib.machinery import BuiltinImporter
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from bridgehold_sdk import Bridge, Session, operation
from bridgehold_sdk.faults import class_name
from bridgehold_sdk.files import Files
from bridgehold_sdk.plain import clean_text, to_plain
from bridgehold_sdk.streams import note_last

if TYPE_CHECKING:
    from bridgehold_sdk import Tool
    from bridgehold_sdk.programs import Program

REPR_CHARACTERS = 16 * 1024
SOURCES_KEPT = 100
SIGNALS_AFTER = 0.3
"""Seconds after which a program's caller is asked whether it has a signal for it."""
FUTURES = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)


class Exit(_sitebuiltins.Quitter):
    """A prompt's own would close standard input, and the session lives on."""

    def __call__(self, code: Any = None) -> NoReturn:
        """End the command that runs now; the session lives on."""
        raise SystemExit(code)


class PythonBridge(Files, Bridge):
    """Python code in a namespace that lasts the session; each operation is described in bridge.toml."""

    name = "python"
    version = "0.1.0"

    def open(self, session: Session) -> None:
        """The session begins: its namespace is empty."""
        self._count = 0
        sys.path.insert(0, "")  # as at a prompt: the working folder
        for name in ("exit", "quit"):
            setattr(builtins, name, Exit(name, "Ctrl-D (i.e. EOF)"))
        self._fresh()

    def framework(self) -> dict[str, Any]:
        """The name and version of what it wraps, and what it can do."""
        return {"name": "python", "version": platform.python_version(), "capabilities": ["execute"]}

    @operation(effect="run", resource="namespace")
    def execute(self, code: str) -> dict[str, Any]:
        """The host adds what was written. An exception becomes the fault, with the code's own traceback."""
        __tracebackhide__ = True
        with self.callers_code():
            present, value = self._run(code)
            shown = self._shown(value) if present else Shown()
        said = {
            "value": shown.plain,
            "repr": shown.text,
            "type": shown.kind,
            "truncated": shown.cut,
        }
        return said if self.artifacts.granted else fitted(said, self.result_bytes)

    @operation(effect="configure", resource="namespace")
    def reset(self) -> dict[str, Any]:
        """Forget every name of the session."""
        names = [name for name in self._namespace if not name.startswith("__")]
        self._fresh()
        return {"status": "reset", "names": len(names)}

    @operation(effect="run", stream=True)
    def program(
        self,
        kind: str,
        text: str,
        args: Sequence[str] = (),
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> dict[str, Any]:
        """Run a program in a process of its own; what it writes comes as chunks, and a part in the result."""
        __tracebackhide__ = True
        from bridgehold_sdk import programs
        from bridgehold_sdk.python_program import Invocation

        folder, environment = programs.checked_folder(cwd), programs.checked_environment(env)
        what = Invocation(kind, text, list(args), folder, environment)
        asked = self.tools.get("stdin") if stdin is None else None
        if asked is None:
            return self._watched(programs.fork(what.become, with_input=stdin is not None), stdin, None)
        seen, what.wanted = programs.pipe()
        started = programs.fork(what.become, with_input=True)
        os.close(what.wanted)
        return self._watched(started, None, asked, seen)

    def _watched(
        self, started: Program, stdin: str | None, asked: Tool | None, wanted: int = -1
    ) -> dict[str, Any]:
        """What came of a program: fed with `stdin`, or by the caller's own tool, and told as it writes."""
        __tracebackhide__ = True
        from bridgehold_sdk import programs

        kept = {"stdout": programs.Kept(), "stderr": programs.Kept()}

        def tell(stream: str, data: bytes) -> None:
            kept[stream].add(data)
            self.emit({"stream": stream, **programs.piece_of(data)})

        if stdin is not None or asked is not None:
            given = (started, stdin, asked, wanted)
            threading.Thread(target=_feed, args=given, name="stdin", daemon=True).start()
        if asked is not None and "signals" in asked.parameters.get("properties", ()):
            threading.Thread(target=_pass_signals, args=(started, asked), name="signals", daemon=True).start()
        ended = started.pump(tell)
        shown = {name: one.text() for name, one in kept.items()}
        cut = any(one.cut for one in kept.values())
        return {"status": ended.status, "signal": ended.signal, **shown, "truncated": cut}

    def _fresh(self) -> None:
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        self._namespace = module.__dict__
        self._namespace.update(__builtins__=builtins, __loader__=BuiltinImporter, __annotations__={})
        self._futures = 0
        builtins.__dict__.pop("_", None)

    def _run(self, code: str) -> tuple[bool, Any]:
        """Whether the last statement was an expression, and its value. ``exit(0)`` is a normal end."""
        __tracebackhide__ = True
        try:
            return self._statements(code)
        except SystemExit as error:
            if error.code is None or (isinstance(error.code, int) and int(error.code) == 0):
                return False, None
            raise
        except BaseException as error:
            note_last(error)
            raise

    def _statements(self, code: str) -> tuple[bool, Any]:
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
        __tracebackhide__ = True
        code = compile(source, name, mode, flags | self._futures, dont_inherit=True)
        self._futures |= getattr(code, "co_flags", 0) & FUTURES
        return code

    def _shown(self, value: Any) -> Shown:
        """What can be told of `value`. Its class is foreign code: where that fails, the command doesn't."""
        kind = class_name(type(value))
        try:
            text, cut = shortened(value)
        except BaseException as error:
            if self.interrupted:
                raise
            text, cut = f"<{kind}: its repr raised {class_name(type(error))}>", True
        try:
            return Shown(kind, text, to_plain(value), cut)
        except BaseException:
            if self.interrupted:
                raise
            return Shown(kind, text, None, cut)


def _feed(program: Program, stdin: str | None, asked: Tool | None, wanted: int) -> None:
    """On a thread: all of `stdin`, or what `asked` gives until it says that there is no more.

    `wanted`: readable once the program may read, if it ever does.
    """
    from bridgehold_sdk import programs

    if asked is None:
        program.write((stdin or "").encode("utf-8", "surrogatepass"))
        program.close_input()
        return
    try:
        while wanted < 0 or os.read(wanted, 1):
            if wanted >= 0:
                os.close(wanted)
                wanted = -1
            if not programs.feed(program, asked()):
                break
    except Exception:  # noqa: BLE001 - whatever the caller's side fails at, there is no more input
        program.close_input()


def _pass_signals(program: Program, asked: Tool) -> None:
    """On a thread, of a program that takes its time: what else its caller has for it."""
    from bridgehold_sdk import programs

    with contextlib.suppress(Exception):  # whatever the caller's side fails at, it sends none
        while not program.wait(SIGNALS_AFTER):
            programs.feed(program, asked(signals=True))


class Shown(NamedTuple):
    """A value as the caller gets it: nothing of it, where there is none."""

    kind: str | None = None
    text: str | None = None
    plain: Any = None
    cut: bool = False


def shortened(value: object) -> tuple[str, bool]:
    """Its `repr`, and whether that was cut. Of plain text and lists no more is written out than is shown."""
    size = len(value) if type(value) in (str, bytes, bytearray, list, tuple) else 0  # type: ignore[arg-type]  # those have one
    part = value[:REPR_CHARACTERS] if size > REPR_CHARACTERS else value  # type: ignore[index]  # as above
    text = clean_text(repr(part))
    rest = max(0, len(text) - REPR_CHARACTERS)
    if part is value and not rest:
        return text, False
    left = f"{rest} characters" if part is value else f"{size - REPR_CHARACTERS} and more of {size}"
    return text[:REPR_CHARACTERS] + f"… {left} cut …", True


def fitted(said: dict[str, Any], most: int) -> dict[str, Any]:
    """`said`, within `most` bytes: the value goes first, then the middle of its `repr`."""
    if _size(said) <= most:
        return said
    said = {**said, "value": None, "truncated": True}
    text = said["repr"]
    while text and _size(text) > most // 4:
        keep = max(0, len(text) // 4 - 20)
        text = f"{text[:keep]}\n… {len(text) - 2 * keep} characters cut …\n{text[len(text) - keep :]}"
        if not keep:
            break
    return {**said, "repr": text}


def _size(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())
