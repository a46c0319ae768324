"""The commands that a DSPex or Snakepit script answers, read from its source by `ast` (pure).

Nothing of the script is run. Found are tables of handlers (``{"ping": self.handle_ping}``), comparisons
(``if command == "ping"``), `match` arms, and methods named ``handle_…`` or ``cmd_…``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import msgspec

from bridgehold.errors import UsageError
from bridgehold.ids import is_operation

_PREFIXES = ("handle_", "cmd_", "command_", "do_")
_ASKED = frozenset({"command", "cmd", "operation", "action"})
_COMMON = frozenset({"ping", "shutdown", "get_stats", "health", "health_check", "initialize"})
"""What every bridge answers already."""
_MOST_BYTES = 2 * 1024 * 1024


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """One command, and what its handler takes out of its arguments."""

    name: str
    required: tuple[str, ...] = ()
    """``args["x"]``."""
    optional: tuple[str, ...] = ()
    """``args.get("x")``."""
    summary: str = ""
    effect: str = "run"


class ScriptFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a script shows of itself without being run: its handlers, and what it imports."""

    handlers: tuple[Handler, ...]
    imports: tuple[str, ...]
    """Top-level packages that aren't the standard library's."""


def read_script(source: str, where: str) -> ScriptFacts:
    """Raises `UsageError` for what is no Python, or answers no command."""
    if len(source) > _MOST_BYTES:
        raise UsageError(f"the script has more than {_MOST_BYTES} bytes", where=where)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"the script can't be read: {error}", where=where) from None
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found: dict[str, str] = {}
    for name, function in _commands(tree, functions):
        if is_operation(name) and name not in _COMMON:
            found.setdefault(name, function)
    if not found:
        raise UsageError(
            "no commands were found in the script",
            where=where,
            hint='It is searched for {"command": handler}, command == "name", and methods handle_NAME.',
        )
    handlers = tuple(_handler(name, functions.get(function)) for name, function in found.items())
    return ScriptFacts(handlers=handlers, imports=tuple(sorted(imports_of(tree))))


def _commands(tree: ast.AST, functions: dict[str, ast.FunctionDef]) -> Iterator[tuple[str, str]]:
    """(command, name of its function)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            yield from _of_table(node, functions)
        elif isinstance(node, ast.Compare) and _named(node.left) in _ASKED:
            for other in node.comparators:
                yield from _of_constant(other, functions)
        elif isinstance(node, ast.Match) and _named(node.subject) in _ASKED:
            for case in node.cases:
                if isinstance(case.pattern, ast.MatchValue):
                    yield from _of_constant(case.pattern.value, functions)
    for name in functions:
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                yield name.removeprefix(prefix), name


def _of_table(node: ast.Dict, functions: dict[str, ast.FunctionDef]) -> Iterator[tuple[str, str]]:
    for key, value in zip(node.keys, node.values, strict=True):
        function = _named(value)
        if isinstance(key, ast.Constant) and isinstance(key.value, str) and function in functions:
            yield key.value, function


def _of_constant(node: ast.AST, functions: dict[str, ast.FunctionDef]) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value, _of(node.value, functions)


def _of(command: str, functions: dict[str, ast.FunctionDef]) -> str:
    return next((name for prefix in ("", "_", *_PREFIXES) if (name := prefix + command) in functions), "")


def _named(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _handler(name: str, function: ast.FunctionDef | None) -> Handler:
    required: dict[str, None] = {}
    optional: dict[str, None] = {}
    for node in ast.walk(function) if function is not None else ():
        if isinstance(node, ast.Subscript) and _is_args(node.value):
            _add(required, node.slice)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and _is_args(node.func.value)
            and node.args
        ):
            _add(optional, node.args[0])
    document = ast.get_docstring(function) if function is not None else None
    return Handler(
        name=name,
        required=tuple(required),
        optional=tuple(key for key in optional if key not in required),
        summary=(document or "").strip().partition("\n")[0][:200],
        effect=_effect(name),
    )


def _is_args(node: ast.AST) -> bool:
    return _named(node) in ("args", "arguments", "params", "kwargs")


def _add(found: dict[str, None], key: ast.AST) -> None:
    if isinstance(key, ast.Constant) and isinstance(key.value, str) and key.value.isidentifier():
        found[key.value] = None


def _effect(name: str) -> str:
    """By its name: what doesn't say that it only reads is taken to run."""
    if name.startswith(("get_", "list_", "show_", "describe_", "info")):
        return "read"
    return "configure" if name.startswith(("configure", "set_", "update_")) else "run"


def imports_of(tree: ast.AST) -> set[str]:
    """Top-level packages that are imported and aren't the standard library's."""
    import sys

    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names
