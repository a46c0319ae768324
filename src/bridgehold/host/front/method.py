"""One method of the protocol, as the door's servers know it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from bridgehold.host.front.callers import SMALL
from bridgehold.host.front.outgoing import Emit
from bridgehold.protocol.values import Principal

Handler = Callable[[Principal, Any, Emit], Awaitable[object]]


class Method(msgspec.Struct, frozen=True):
    """One method of the protocol: its parameters' type and its handler."""

    params: type[msgspec.Struct]
    handler: Handler
    operator: bool = False
    gives: int = SMALL
    """Bytes that its answer takes while it is made; counted before it begins."""
    reads: bool = False
    """It changes nothing and runs nothing: also for a principal that may only read."""
    decides: bool = False
    """It decides by itself for which tenant it is asked, and writes its own refusals."""
