"""Any value as something the wire carries: bounded, and honest about what was left out.

Frameworks' own values are shown by `serialisers`, found by the name of their class, so that nothing is
imported for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bridgehold_sdk.errors import InvalidInput
from bridgehold_sdk.plain import clean_text

_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_DEPTH = 6
_LEAST, _MOST = -(2**63), 2**64 - 1


class Shown(NamedTuple):
    """How much of a value is shown, from where, and what it is called where the rest is asked for."""

    items: int = 10
    attributes: int = 10
    characters: int = 500
    offset: int = 0
    name: str = ""
    path: str = ""


Serialiser = Callable[[Any], Any]
serialisers: dict[str, Serialiser] = {
    "dspy.primitives.prediction.Prediction": lambda value: dict(value.items()),
    "dspy.primitives.example.Example": lambda value: dict(value.items()),
    "pandas.core.frame.DataFrame": lambda value: value.to_dict("records"),
    "pandas.DataFrame": lambda value: value.to_dict("records"),
    "pandas.core.series.Series": lambda value: value.to_dict(),
    "pandas.Series": lambda value: value.to_dict(),
    "numpy.ndarray": lambda value: value.tolist(),
    "torch.Tensor": lambda value: value.detach().cpu().tolist(),
}
"""By class, what of a framework's value is shown. A bridge may add its own."""


_BRIEFLY = Shown()


def show(value: Any, bounds: Shown = _BRIEFLY) -> dict[str, Any]:
    """``{"type", "value"}`` of what is data, ``{"type", "attributes"}`` of what isn't; and what was cut."""
    cuts: list[dict[str, Any]] = []
    kind = _kind(value)
    serialise = _serialiser(value)
    if serialise is not None:
        value = serialise(value)
    if _is_data(value):
        said = {"type": kind, "value": _bounded(value, bounds, bounds.path, cuts, 0)}
    else:
        said = {"type": kind, "text": _text(value, bounds), "attributes": _attributes(value, bounds, cuts)}
    if cuts:
        said["truncated"] = cuts[:20]
        said["rest"] = _rest(bounds)
    return said


def at_path(value: Any, path: str) -> Any:
    """The part of `value` at ``.name[0].other``: keys, indices, attributes. `InvalidInput` for none."""
    end = 0
    for step in _STEP.finditer(path):
        if step.start() != end:
            break
        end = step.end()
        name, index = step[1], step[2]
        try:
            if index is not None:
                value = value[int(index)]
            elif isinstance(value, Mapping):
                value = value[name]
            elif name.startswith("_"):
                raise InvalidInput(f"{name!r} is not public")
            else:
                value = getattr(value, name)
        except (LookupError, AttributeError, TypeError):
            raise InvalidInput(f"there is nothing at {path[:200]!r}") from None
    if end != len(path):
        raise InvalidInput(f"{path[:200]!r} is no path such as .name[0]")
    return value


def _bounded(value: Any, bounds: Shown, path: str, cuts: list[dict[str, Any]], depth: int) -> Any:  # noqa: PLR0911 - one for each kind
    if isinstance(value, str):
        offset = bounds.offset if depth == 0 else 0
        part = value[offset : offset + bounds.characters]
        if len(part) < len(value):
            cuts.append(
                {"path": path, "unit": "characters", "from": offset, "shown": len(part), "of": len(value)}
            )
        return clean_text(part)
    if value is None or isinstance(value, (bool, int, float)):
        return value if _fits(value) else str(value)
    if depth >= _DEPTH:
        cuts.append({"path": path, "unit": "levels", "shown": 0, "of": 1})
        return f"<{_kind(value)}>"
    if isinstance(value, Mapping):
        keys = list(value)
        chosen = _chosen(keys, bounds, path, cuts, depth)
        return {
            clean_text(str(key))[: bounds.characters]: _bounded(
                value[key], bounds, f"{path}.{key}", cuts, depth + 1
            )
            for key in chosen
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        chosen = _chosen(list(value), bounds, path, cuts, depth)
        first = bounds.offset if depth == 0 else 0
        return [
            _bounded(one, bounds, f"{path}[{first + number}]", cuts, depth + 1)
            for number, one in enumerate(chosen)
        ]
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        return _bounded(value.item(), bounds, path, cuts, depth + 1)
    if callable(getattr(value, "isoformat", None)):
        return str(value.isoformat())
    return _text(value, bounds)


def _fits(number: float | None) -> bool:
    """Whether JSON and 64 bits can hold it."""
    if isinstance(number, float):
        return math.isfinite(number)
    return number is None or _LEAST <= number <= _MOST


def _chosen(items: list[Any], bounds: Shown, path: str, cuts: list[dict[str, Any]], depth: int) -> list[Any]:
    offset = bounds.offset if depth == 0 else 0
    chosen = items[offset : offset + bounds.items]
    if len(chosen) < len(items):
        cuts.append({"path": path, "unit": "items", "from": offset, "shown": len(chosen), "of": len(items)})
    return chosen


def _attributes(value: Any, bounds: Shown, cuts: list[dict[str, Any]]) -> dict[str, Any]:
    names = [name for name in dir(value) if not name.startswith("_")]
    found: dict[str, Any] = {}
    for name in names[bounds.offset : bounds.offset + bounds.attributes]:
        try:
            one = getattr(value, name)
        except Exception as error:  # noqa: BLE001 - a property may raise anything
            found[name] = f"<{type(error).__name__}>"
            continue
        found[name] = f"<{_kind(one)}>" if not _is_data(one) else _bounded(one, bounds, f".{name}", cuts, 1)
    if len(found) < len(names):
        cuts.append(
            {
                "path": bounds.path,
                "unit": "attributes",
                "from": bounds.offset,
                "shown": len(found),
                "of": len(names),
            }
        )
    return found


def _rest(bounds: Shown) -> str:
    if not bounds.name:
        return "call again with store_as, then retrieve {id, path, offset, limit, characters}"
    return f"retrieve {{id: {bounds.name!r}, path, offset, limit, characters}}"


def _is_data(value: Any) -> bool:
    return value is None or isinstance(value, (str, bool, int, float, Mapping, list, tuple, set, frozenset))


def _serialiser(value: Any) -> Serialiser | None:
    for kind in type(value).__mro__:
        found = serialisers.get(f"{kind.__module__}.{kind.__qualname__}")
        if found is not None:
            return found
    return None


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(value: Any, bounds: Shown) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a repr may raise anything
        text = f"<{_kind(value)}: its repr raised {type(error).__name__}>"
    return clean_text(text[: bounds.characters])
