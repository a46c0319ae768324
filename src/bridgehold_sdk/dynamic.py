"""Dynamic calls: any target by its dotted name, with references to what earlier calls left.

A mixin for bridges that grant it. Names are checked for honest callers only: whoever may call anything may
do anything inside, and only the sandbox holds that.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import time
from collections.abc import Callable
from typing import Any

from bridgehold_sdk.bridge import CallersCode, operation
from bridgehold_sdk.errors import InvalidInput
from bridgehold_sdk.shown import Shown, at_path, show
from bridgehold_sdk.store import Store

_REFERENCE = re.compile(r"stored\.([A-Za-z_]\w*)((?:\.\w+|\[\d+\])*)")
_LITERAL = "$literal"
_DEPTH = 32


class DynamicCalls:
    """Operations `call`, `pipeline`, `inspect`, `store`, `retrieve`, `list_stored`, `delete_stored`.

    A bridge calls `begin_dynamic()` in its `open`. `allowed` names the modules whose targets may be called;
    empty: any that can be imported.
    """

    allowed: tuple[str, ...] = ()
    callers_code: Callable[[], CallersCode]

    def begin_dynamic(self) -> None:
        """Make the empty store; a bridge calls it in its own `open`."""
        self.stored: Store[Any] = Store("value")

    @operation(effect="run")
    def call(
        self,
        *,
        target: str,
        args: list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        store_as: str = "",
        debug: bool = False,
    ) -> dict[str, Any]:
        """Call `target`, or read it where it can't be called and nothing is given."""
        started = time.perf_counter()
        found = self._resolve(target)
        given = [self._filled(one, 0) for one in args or ()]
        named = {key: self._filled(one, 0) for key, one in (kwargs or {}).items()}
        if callable(found):
            with self.callers_code() if _runs_text(found) else contextlib.nullcontext():
                value = found(*given, **named)
        elif given or named:
            raise InvalidInput(f"{target} is a value of type {type(found).__name__}, and can't be called")
        else:
            value = found
        if store_as:
            self._keep(store_as, value)
        said: dict[str, Any] = {"status": "ok", "target": target, "result": self._shown(value, store_as)}
        if store_as:
            said["stored_as"] = store_as
        if debug:
            said["debug"] = {
                "resolved": f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', target)}",
                "args": [type(one).__name__ for one in given],
                "kwargs": {key: type(one).__name__ for key, one in named.items()},
                "seconds": time.perf_counter() - started,
            }
        return said

    @operation(effect="run")
    def pipeline(self, steps: list[dict[str, Any]], debug: bool = False) -> dict[str, Any]:
        """Calls in order; `stored.previous` is what the one before gave. The first that fails ends it."""
        results: list[dict[str, Any]] = []
        for number, step in enumerate(steps):
            given = {key: step[key] for key in ("target", "args", "kwargs") if key in step}
            name = str(step.get("store_as") or "previous")
            try:
                said = self.call(**given, store_as=name, debug=debug)
            except Exception as error:
                error.args = (f"step {number} ({str(step.get('target'))[:100]}): {error}",)
                raise
            if not step.get("store_as"):
                said.pop("stored_as")
            else:
                self._keep("previous", self.stored.get(name))
            results.append(said)
            progress = getattr(self, "progress", None)
            if progress is not None:
                progress(number + 1, len(steps), str(step.get("target"))[:100])
        return {"status": "ok", "pipeline_results": results}

    @operation(effect="read")
    def inspect(self, target: str, offset: int = 0, limit: int = 50) -> dict[str, Any]:
        """What `target` is: kind, signature, documentation, public attributes."""
        import inspect

        found = self._resolve(target)
        names = [name for name in dir(found) if not name.startswith("_")]
        try:
            signature = str(inspect.signature(found)) if callable(found) else ""
        except (TypeError, ValueError):
            signature = ""
        document = inspect.getdoc(found) or ""
        return {
            "status": "ok",
            "target": target,
            "kind": "class"
            if isinstance(found, type)
            else "module"
            if inspect.ismodule(found)
            else "callable"
            if callable(found)
            else "value",
            "type": type(found).__name__,
            "signature": signature,
            "doc": document[:4_000],
            "doc_cut": max(0, len(document) - 4_000),
            "attributes": names[offset : offset + limit],
            "attribute_count": len(names),
        }

    @operation(effect="configure")
    def store(self, id: str, value: Any) -> dict[str, Any]:  # noqa: A002 - named as the command names it
        """Keep `value` under `id`; references in it are filled in first."""
        self._keep(id, self._filled(value, 0))
        return {"status": "ok", "id": id, "stored": True}

    @operation(effect="read")
    def retrieve(
        self,
        id: str,  # noqa: A002 - named as the command names it
        path: str = "",
        offset: int = 0,
        limit: int = 1_000,
        characters: int = 100_000,
    ) -> dict[str, Any]:
        """A stored value, or the part of it at `path` (``.name``, ``[0]``), from `offset` on."""
        value = at_path(self.stored.get(id), path)
        bounds = Shown(
            items=limit, attributes=limit, characters=characters, offset=offset, name=id, path=path
        )
        return {"status": "ok", "id": id, "path": path, "result": show(value, bounds)}

    @operation(effect="read")
    def list_stored(self) -> dict[str, Any]:
        """Name and type of everything that is kept."""
        return {
            "status": "ok",
            "stored": [{"id": name, "type": _type(value)} for name, value in self.stored.items()],
            "count": len(self.stored),
        }

    @operation(effect="configure")
    def delete_stored(self, id: str) -> dict[str, Any]:  # noqa: A002 - named as the command names it
        """Forget what is kept under `id`. Raises `ResourceNotFound`."""
        self.stored.delete(id)
        return {"status": "ok", "id": id, "deleted": True}

    def _keep(self, name: str, value: Any) -> None:
        if not _REFERENCE.fullmatch(f"stored.{name}") or "." in name or "[" in name:
            raise InvalidInput(f"{name[:80]!r} is no name to store under: letters, digits and '_'")
        if name in self.stored:
            self.stored.delete(name)
        self.stored.add(value, name)

    def _shown(self, value: Any, name: str) -> dict[str, Any]:
        return show(value, Shown(name=name))

    def _resolve(self, target: str) -> Any:
        """A module's attribute, or one of a stored value. `InvalidInput` for what there isn't."""
        parts = target.split(".")
        if not all(part.isidentifier() for part in parts) or any(part.startswith("_") for part in parts):
            raise InvalidInput(f"{target[:200]!r} is no dotted name of public parts")
        if parts[0] == "stored":
            if len(parts) < 2:
                raise InvalidInput("stored.NAME names a stored value")
            return _walk(self.stored.get(parts[1]), parts[2:], target)
        if self.allowed and parts[0] not in self.allowed:
            raise InvalidInput(f"{parts[0]!r} is none of {', '.join(self.allowed)}")
        builtins = vars(importlib.import_module("builtins"))
        if parts[0] in builtins:
            return _walk(builtins[parts[0]], parts[1:], target)
        module, rest = _module(parts, len(parts))
        return _walk(module, rest, target)

    def _filled(self, value: Any, depth: int) -> Any:
        """`value` with each ``"stored.x"`` in it replaced, at any depth; not below ``{"$literal": …}``."""
        if depth > _DEPTH:
            raise InvalidInput(f"arguments nest deeper than {_DEPTH}")
        if isinstance(value, str):
            reference = _REFERENCE.fullmatch(value)
            return at_path(self.stored.get(reference[1]), reference[2]) if reference else value
        if isinstance(value, list):
            return [self._filled(one, depth + 1) for one in value]
        if isinstance(value, dict):
            if set(value) == {_LITERAL}:
                return value[_LITERAL]
            return {key: self._filled(one, depth + 1) for key, one in value.items()}
        return value


def _module(parts: list[str], count: int) -> tuple[Any, list[str]]:
    """The longest importable beginning of `parts`, and the rest."""
    while count:
        name = ".".join(parts[:count])
        try:
            return importlib.import_module(name), parts[count:]
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
        count -= 1
    raise ModuleNotFoundError(f"no module named {parts[0]!r}", name=parts[0])


def _walk(value: Any, names: list[str], target: str) -> Any:
    for name in names:
        if not hasattr(value, name):
            raise InvalidInput(f"{target[:200]!r}: {_type(value)} has no {name!r}")
        value = getattr(value, name)
    return value


def _runs_text(found: Any) -> bool:
    """Whether what is called is the caller's own code: text that is run, or a function made of it."""
    code = getattr(found, "__code__", None)
    return found is exec or found is eval or str(getattr(code, "co_filename", "")).startswith("<string")


def _type(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
