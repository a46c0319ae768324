"""Running one operation: what does not fit the method's parameters is refused before its code runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridgehold_sdk.errors import InvalidInput

if TYPE_CHECKING:
    from bridgehold_sdk.bridge import Bridge, Operation


def perform(bridge: Bridge, fact: Operation, args: dict[str, Any]) -> Any:
    """The method's value, or a generator for a stream. `InvalidInput` where the arguments don't fit."""
    try:
        return getattr(bridge, fact.method)(**args)
    except TypeError as error:
        trace = error.__traceback__
        if trace is not None and trace.tb_next is None:  # raised by the call itself, not inside
            raise InvalidInput(f"{fact.name}: {str(error).partition('() ')[2] or error}") from None
        raise
