"""A request's parameters as its method takes them: strict, and what can't arrive as it was sent is said."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from bridgehold import strict
from bridgehold.errors import UsageError
from bridgehold.protocol.plain import MAX_DEPTH, loads

T = TypeVar("T", bound=msgspec.Struct)


def decode(method: str, params: msgspec.Raw, kind: type[T]) -> T:
    """`params` as `kind`. Raises `UsageError`."""
    raw = bytes(params)
    try:
        return msgspec.convert(strict.loads(raw, max_depth=MAX_DEPTH + 1), type=kind)
    except strict.StrictError:
        loads(raw, above=1)  # raises what its caller is told
        raise
    except msgspec.ValidationError as error:
        raise UsageError(f"parameters of {method[:80]}: {error}") from error
