"""Tools that an agent may be given: pure functions on their arguments. They read and reach nothing.

What a model writes as arguments is hostile input too: arithmetic is read, never evaluated, and every
number has a bound.
"""

from __future__ import annotations

import ast
import datetime
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool, ToolException

_BITS = 10_000
"""Of an integer; about three thousand digits."""
_CHARACTERS = 1_000
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "abs": (abs, 1, 1),
    "round": (round, 1, 2),
    "min": (min, 2, 50),
    "max": (max, 2, 50),
    "sqrt": (math.sqrt, 1, 1),
    "exp": (math.exp, 1, 1),
    "log": (math.log, 1, 2),
    "log10": (math.log10, 1, 1),
    "sin": (math.sin, 1, 1),
    "cos": (math.cos, 1, 1),
    "tan": (math.tan, 1, 1),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
}
"""What may be called, with the least and the most arguments."""
_UNITS: dict[str, tuple[str, float]] = {
    "mm": ("length", 0.001),
    "cm": ("length", 0.01),
    "m": ("length", 1.0),
    "km": ("length", 1_000.0),
    "in": ("length", 0.0254),
    "ft": ("length", 0.3048),
    "mi": ("length", 1_609.344),
    "g": ("mass", 0.001),
    "kg": ("mass", 1.0),
    "t": ("mass", 1_000.0),
    "oz": ("mass", 0.028349523125),
    "lb": ("mass", 0.45359237),
    "s": ("time", 1.0),
    "min": ("time", 60.0),
    "h": ("time", 3_600.0),
    "d": ("time", 86_400.0),
    "ml": ("volume", 0.001),
    "l": ("volume", 1.0),
    "gal": ("volume", 3.785411784),
}


def calculator(expression: str) -> str:
    """Calculate an arithmetic expression: + - * / // % **, parentheses, pi, e, sqrt, log, sin, min, max, …"""
    if len(expression) > _CHARACTERS:
        raise ToolException(f"an expression has at most {_CHARACTERS} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return str(_value(tree.body))
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ToolException(f"{expression[:200]!r} can't be calculated: {error}") from error


def count_text(text: str) -> dict[str, int]:
    """Count a text's characters, words and lines."""
    return {"characters": len(text), "words": len(text.split()), "lines": len(text.splitlines())}


def days_between(start: str, end: str) -> int:
    """Days from one date to another, each written as 2026-01-31; negative where the end is earlier."""
    try:
        return (datetime.date.fromisoformat(end) - datetime.date.fromisoformat(start)).days
    except ValueError as error:
        raise ToolException(f"a date is written as 2026-01-31: {error}") from error


def convert_unit(value: float, source: str, target: str) -> float:
    """Convert a value between units: mm cm m km in ft mi, g kg t oz lb, s min h d, ml l gal."""
    if source not in _UNITS or target not in _UNITS:
        raise ToolException(f"units are {', '.join(_UNITS)}")
    (kind, factor), (wanted, divisor) = _UNITS[source], _UNITS[target]
    if kind != wanted:
        raise ToolException(f"{source} is a unit of {kind}, {target} of {wanted}")
    return value * factor / divisor


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            _check_power(left, right)
        return _bounded(_BINARY[type(node.op)](left, right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        function, least, most = _FUNCTIONS[node.func.id]
        if node.keywords or not least <= len(node.args) <= most:
            raise ValueError(f"{node.func.id} takes {least} to {most} numbers")
        return _bounded(function(*map(_value, node.args)))
    raise ValueError(f"{type(node).__name__} is no arithmetic")


def _check_power(base: Any, exponent: Any) -> None:
    """Before it is calculated: afterwards it is too late."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > _BITS:
        raise ValueError(f"the result has more than {_BITS} bits")


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > _BITS:
        raise ValueError(f"a number has more than {_BITS} bits")
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("the result is no finite real number")
    return value


def _tool(function: Callable[..., Any]) -> BaseTool:
    async def at_once(**arguments: Any) -> Any:
        """On the loop: it is short, and a thread of its own would outlive a cancel."""
        return function(**arguments)

    # What a tool refuses goes back to the model, which may try again; the run goes on.
    return StructuredTool.from_function(
        function, at_once, name=function.__name__, handle_tool_error=True, parse_docstring=False
    )


class _Tools(Mapping[str, BaseTool]):
    """By name; each is built when it is asked for first, which takes more than a millisecond."""

    def __init__(self, *functions: Callable[..., Any]) -> None:
        self._functions = {function.__name__: function for function in functions}
        self._built: dict[str, BaseTool] = {}

    def __getitem__(self, name: str) -> BaseTool:
        if name not in self._built:
            self._built[name] = _tool(self._functions[name])
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)


TOOLS = _Tools(calculator, count_text, days_between, convert_unit)
