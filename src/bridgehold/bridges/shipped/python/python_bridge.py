"""Runs Python code, statement by statement as a REPL would, in one namespace per session."""

from __future__ import annotations
import __future__

import _sitebuiltins
import ast
import builtins
import contextlib
import functools
import keyword
import linecache
import operator
import platform
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from python_displays import Displays
from python_names import Names
from python_place import MAIN, Place
from python_shown import Shown, fitted, shortened

from bridgehold_sdk import Bridge, InvalidInput, Session, operation
from bridgehold_sdk.faults import class_name
from bridgehold_sdk.files import Files
from bridgehold_sdk.plain import to_plain
from bridgehold_sdk.processes import Processes
from bridgehold_sdk.streams import note_last, remember_source

SOURCES_KEPT = 100
RESULTS_KEPT = 100
"""Of the latest commands, in `Out`."""
INPUTS_KEPT = 1_000
"""Of the latest commands, in `In`."""
EOF = "EOF when reading a line"
"""What `input` says of an end."""
NOT_NAMES = ("artifact_put", "artifact_get", "artifact_list")
"""Tools that the code has as `artifacts`."""
CO_COROUTINE = 0x80
"""`inspect.CO_COROUTINE`, whose import every start would pay."""
FUTURES = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)


class Exit(_sitebuiltins.Quitter):
    """A prompt's own would close standard input, and the session lives on."""

    def __call__(self, code: Any = None) -> NoReturn:
        """End the command that runs now; the session lives on."""
        raise SystemExit(code)


class PythonBridge(Place, Displays, Names, Files, Processes, Bridge):
    """Python code in a namespace that lasts the session; each operation is described in bridge.toml."""

    name = "python"
    version = "0.1.0"

    def open(self, session: Session) -> None:
        """The session begins: its namespace is empty."""
        self._begin_displays()
        sys.path.insert(0, "")  # as at a prompt: the working folder
        for name in ("exit", "quit"):
            setattr(builtins, name, Exit(name, "Ctrl-D (i.e. EOF)"))
        setattr(builtins, "final", final)  # noqa: B010 - a name for the code, which no type has
        self._offer()
        self._begin()

    def framework(self) -> dict[str, Any]:
        """The name and version of what it wraps, and what it can do."""
        return {"name": "python", "version": platform.python_version(), "capabilities": ["execute"]}

    @operation(effect="run", resource="namespace", stream=True)
    def execute(
        self,
        code: str,
        variables: Mapping[str, Any] | None = None,
        returns: Sequence[str] = (),
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] | None = None,
        cwd: str = "",
        context: str = MAIN,
    ) -> dict[str, Any]:
        """The host adds what was written. An exception becomes the fault, with the code's own traceback."""
        __tracebackhide__ = True
        self._go_to(context)
        self._begin_displays()
        if variables or self.tools:
            self._bind(variables or {})
        with self._placed(env, args, cwd), self._input(stdin), self.callers_code():
            present, value = self._run(code)
            shown = self._shown(value) if present else Shown()
            forms = self._forms(value, shown.text or "") if present else {}
            self._show_figures()
        said = {
            "value": shown.plain,
            "repr": shown.text,
            "type": shown.kind,
            "truncated": shown.cut,
            "count": self._at.count,
        }
        if present:
            self._at.results[self._at.count] = value
            self._at.results.pop(self._at.count - RESULTS_KEPT, None)
        if len(forms) > 1:
            said["forms"] = forms
        if self._displays:
            said["displays"] = self._displays
        if self._left_out:
            said["displays_left_out"] = self._left_out
        if returns:
            said["variables"] = self._given_back(returns)
        return said if self.artifacts.granted else fitted(said, self.result_bytes)

    def _bind(self, variables: Mapping[str, Any]) -> None:
        """Variables, and tools as functions, as names in the code."""
        from bridgehold_sdk.given import ToolFunction, decoded

        for name in variables:
            if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("__"):
                raise InvalidInput(f"{name[:80]!r} is no variable's name")
        for name, tool in self.tools.items():
            there = self._namespace.get(name)
            if name in NOT_NAMES:
                builtins.artifacts = self.artifacts  # type: ignore[attr-defined]  # for the code
            elif name != "stdin" and (there is None or type(there) is ToolFunction):
                self._namespace[name] = ToolFunction(tool, lambda: self.tools)
        self._namespace.update({name: decoded(value) for name, value in variables.items()})

    def _given_back(self, names: Sequence[str]) -> dict[str, Any]:
        """The variables that a caller wants; one that can't be sent is told as its `repr`."""
        from bridgehold_sdk.given import encoded

        found: dict[str, Any] = {}
        for name in names:
            if name not in self._namespace:
                continue
            try:
                found[name] = {"value": encoded(self._namespace[name])}
            except BaseException:
                if self.interrupted:
                    raise
                found[name] = {"repr": self._shown(self._namespace[name]).text}
        return found

    @contextlib.contextmanager
    def _input(self, text: str | None) -> Iterator[None]:
        """Standard input by a text or the caller's tool, for one command."""
        tool = self.tools.get("stdin") if text is None else None
        if text is None and tool is None:
            yield
            return
        from bridgehold_sdk.given import asked_input, text_input

        with asked_input(tool) if tool else text_input(text or ""):
            yield

    @operation(effect="configure", resource="namespace")
    def reset(self, context: str = MAIN) -> dict[str, Any]:
        """Forget every name of one namespace."""
        self._go_to(context)
        names = self._at.told()["names"]
        self._at.fresh()
        self._at.enter()
        return {"status": "reset", "names": names}

    def _run(self, code: str) -> tuple[bool, Any]:
        """Whether the last statement was an expression, and its value. ``exit(0)`` is a normal end."""
        __tracebackhide__ = True
        try:
            return self._statements(code)
        except Final as error:
            return error.value is not None, error.value
        except EOFError as error:
            if error.args == (EOF,):
                error.args = (f"{EOF}: this command has no (more) input; `stdin` gives it some",)
            note_last(error)
            raise
        except SystemExit as error:
            if error.code is None or (isinstance(error.code, int) and int(error.code) == 0):
                return False, None
            raise
        except BaseException as error:
            note_last(error)
            raise

    def _statements(self, code: str) -> tuple[bool, Any]:
        __tracebackhide__ = True
        at = self._at
        at.count += 1
        name = at.source
        at.inputs.append(code)
        code, tree = self._parsed(code, name)
        at.inputs[: -INPUTS_KEPT or None] = [""] * len(at.inputs[:-INPUTS_KEPT])
        remember_source(name, code)
        linecache.cache.pop(name.replace(f"{at.count}>", f"{at.count - SOURCES_KEPT}>"), None)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        codes = [self._compiled(tree, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)]
        if last is not None:
            expression = ast.Expression(last.value)
            codes.append(self._compiled(expression, name, "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))
        value = self._evaluated(codes)
        if last is None:
            return False, None
        if sys.displayhook is not sys.__displayhook__:
            sys.displayhook(value)  # the code's own
        elif value is not None:
            builtins._ = value  # type: ignore[attr-defined]  # where a prompt keeps it; the caller is shown it
        return value is not None, value

    def _parsed(self, code: str, name: str) -> tuple[str, Any]:
        """The code, and its tree. A block that is indented as a whole is taken as it was meant."""
        __tracebackhide__ = True
        remember_source(name, code)
        flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        try:
            return code, self._compiled(code, name, "exec", flags)
        except IndentationError:
            import textwrap

            dedented = textwrap.dedent(code)
            if dedented == code:
                raise
            return dedented, self._compiled(dedented, name, "exec", flags)

    def _evaluated(self, codes: Sequence[types.CodeType]) -> Any:
        """What the last one gives; with an `await` at the top of any, all run in the session's event loop."""
        __tracebackhide__ = True
        value: Any = None
        if not any(code.co_flags & CO_COROUTINE for code in codes):
            for code in codes:
                value = eval(code, self._namespace)  # noqa: S307 - what the operation is for
            return value
        import asyncio

        loop = self._at.loop
        if loop is None or loop.is_closed():
            loop = self._at.loop = asyncio.new_event_loop()
        task = loop.create_task(self._awaited(codes))
        try:
            return loop.run_until_complete(task)
        except BaseException as error:  # noqa: BLE001 - raised anew, without the loop's frames
            if not task.done():
                task.cancel()
                loop.run_until_complete(asyncio.wait([task], timeout=1.0))
            raise error.with_traceback(_from_awaited(error.__traceback__))  # noqa: B904 - the same error

    async def _awaited(self, codes: Sequence[types.CodeType]) -> Any:
        __tracebackhide__ = True
        value: Any = None
        for code in codes:
            value = eval(code, self._namespace)  # noqa: S307 - as above
            if code.co_flags & CO_COROUTINE:
                value = await value
        return value

    def _compiled(self, source: Any, name: str, mode: str, flags: int = 0) -> Any:
        """With the futures of earlier commands, as at a prompt, and none of this module's own."""
        __tracebackhide__ = True
        code = compile(source, name, mode, flags | self._at.futures, dont_inherit=True)
        self._at.futures |= getattr(code, "co_flags", 0) & FUTURES
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


class Final(BaseException):
    """Ends a command with a value; no `except Exception` of the code's keeps it."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def _from_awaited(trace: types.TracebackType | None) -> types.TracebackType | None:
    """Without the event loop's own frames; as it is, where it isn't in the code."""
    found = trace
    while found is not None and found.tb_frame.f_code is not PythonBridge._awaited.__code__:  # noqa: SLF001 - our own
        found = found.tb_next
    return found or trace


def final(value: Any = None) -> NoReturn:
    """End the command that runs now, with `value` as its own."""
    raise Final(value)
