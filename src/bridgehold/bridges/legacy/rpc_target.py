"""What a call of SnakeBridge's reaches, by one name: module and function of what its worker imports (pure).

The worker reads the same parameters in an order of its own. Where two of them could be meant, and say
different things, the call has no one target and is refused: it would be judged as one and run as the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bridgehold.errors import UsageError

TARGETED = frozenset({"snakebridge.call", "snakebridge.stream"})
"""Tools whose parameters say what they run."""
_MODULES = ("python_module", "module", "module_path")
_CLASSES = ("class", "class_name")
_ATTRIBUTES = ("attr", "function")
_NAMED: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "function": (("function",),),
    "dynamic": (("function",),),
    "dynamic_stream": (("function",),),
    "class": (_CLASSES,),
    "method": (("function", "method"),),
    "get_attr": (_ATTRIBUTES,),
    "set_attr": (_ATTRIBUTES,),
    "module_attr": (_ATTRIBUTES,),
}
"""Kinds of call, and where each of the names that follow the module's may stand."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}(\.[A-Za-z_][A-Za-z0-9_]{0,99}){0,15}")
_LONGEST = 200


def target_of(parameters: Mapping[str, object]) -> str:
    """``dspy.Predict``; ``helper:NAME`` of a helper; ``stream:next`` of a stream's next item.

    Raises `UsageError` for what has no one target, or a name that Python has none for.
    """
    kind = _one(parameters, ("call_type",)) or "function"
    if kind == "stream_next":
        return "stream:next"
    if kind == "helper":
        return f"helper:{_named(parameters, ('helper', 'function'))}"
    if kind not in _NAMED:
        raise UsageError(f"{kind[:40]!r} is no kind of call whose target is known")
    target = ".".join([_named(parameters, _MODULES), *(_named(parameters, one) for one in _NAMED[kind])])
    if len(target) > _LONGEST:
        raise UsageError(f"a target of more than {_LONGEST} characters")
    return target


def told_target(name: str, parameters: Mapping[str, object]) -> tuple[str, str]:
    """Of a call of the tool `name`: its target, if it is of those that have one, and why that is unclear."""
    try:
        return target_of(parameters) if name in TARGETED else "", ""
    except UsageError as error:
        return "", error.message


def _named(parameters: Mapping[str, object], places: tuple[str, ...]) -> str:
    name = _one(parameters, places)
    if not _NAME.fullmatch(name):
        raise UsageError(f"{places[0]} is no name: {name[:80]!r}")
    return name


def _one(parameters: Mapping[str, object], places: tuple[str, ...]) -> str:
    """What stands in those of `places` that say anything, all alike; empty where none does."""
    said = [value for place in places if (value := parameters.get(place))]
    if not all(isinstance(value, str) for value in said):
        raise UsageError(f"{places[0]} is no text")
    if any(value != said[0] for value in said):
        raise UsageError(f"{' and '.join(place for place in places if parameters.get(place))} differ")
    return str(said[0]) if said else ""
