"""A command's error as it may be told: without the values of its tenant's secrets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from bridgehold.errors import BridgeholdError


async def redact_error(
    error: BridgeholdError, redact: Callable[[str, str], Awaitable[str]], tenant: str
) -> None:
    """Its traceback, and what was written: an error is shown, and kept, in more places than a reply."""
    if error.traceback:
        error.traceback = await redact(tenant, error.traceback)
    if error.output:
        texts = [await redact(tenant, text) for text in (error.output.stdout, error.output.stderr)]
        error.output = msgspec.structs.replace(error.output, stdout=texts[0], stderr=texts[1])
