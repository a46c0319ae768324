"""What a worker has from before it was a session's: loaded weights, and what it does once for itself."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, TypeVar

_kept: Dict[str, Any] = {}
_hooks: List[Callable[[], object]] = []

Hook = TypeVar("Hook", bound=Callable[[], object])


def preloaded(path: str) -> Any:
    """The weights that the operator gave at `path`, as they were loaded before this session began.

    A folder of a transformers model gives ``(model, tokenizer)``; ``.safetensors``, ``.pt``, ``.npz`` give
    tables by name; ``.npy`` an array. They are shared with other sessions until written: write to a copy.
    Raises `KeyError` naming what there is.
    """
    try:
        return _kept[path.rstrip("/")]
    except KeyError:
        there = ", ".join(sorted(_kept)) or "nothing"
        raise KeyError(f"{path!r} was not loaded ahead; loaded: {there}") from None


def after_fork(function: Hook) -> Hook:
    """Decorator: run this once in each worker, before its session opens.

    Under the fork start a module may have been imported long before, in a process that several sessions
    are forked from. Whatever it made then, and a session needs for itself (a seed, a client, a cache), is
    made anew here. Under the cold start it is run as well, so that a bridge behaves alike.
    """
    _hooks.append(function)
    return function


def keep(path: str, loaded: Any) -> None:
    """By our own code, in the zygote."""
    _kept[path.rstrip("/")] = loaded


def run_hooks() -> None:
    """In the order of their registration; what one raises is the worker's failure to start."""
    while _hooks:
        _hooks.pop(0)()
