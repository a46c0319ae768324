"""Running one operation: arguments are bound to the method before any of its code runs."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from bridgehold_sdk.errors import InvalidInput

if TYPE_CHECKING:
    from bridgehold_sdk.bridge import Bridge, Operation


def perform(bridge: Bridge, fact: Operation, args: dict[str, Any]) -> Any:
    """The method's value, or a generator for a stream. `InvalidInput` where the arguments don't fit."""
    method = getattr(bridge, fact.method)
    try:
        bound = inspect.signature(method).bind(**args)
    except TypeError as error:
        raise InvalidInput(f"{fact.name}: {error}") from None
    return method(*bound.args, **bound.kwargs)
