"""What `bridgehold shim check` says, in the words that its parts share."""

from __future__ import annotations

import asyncio
import re

from bridgehold.sandbox.doctor.model import Check

LONGEST_WAIT = 150.0
"""Seconds that a worker has to start: longer than any pool waits, so that it is seen what it does."""
_MOST_SAID = 256 * 1024
"""Of what a script writes meanwhile, the end is kept."""
_READ = 64 * 1024
_LAST_LINES = 3
_MISSING = re.compile(r"ModuleNotFoundError: No module named '([A-Za-z0-9_.]{1,100})'")


def fail(name: str, detail: str, remedy: str) -> Check:
    """What has to be put right."""
    return Check(name=name, status="FAIL", detail=detail, remedy=remedy)


def fail_by(name: str, said: str, wrong: str) -> Check:
    """The same of a worker that wrote `wrong`: a module that isn't there is named."""
    module = _MISSING.search(wrong)
    remedy = f"Add what has {module[1]} to the requirements." if module else ""
    return fail(name, f"{said}\n{last(wrong)}".strip(), remedy)


def last(text: str) -> str:
    """Its last lines."""
    return "\n".join(text.strip().splitlines()[-_LAST_LINES:])


async def end_of(source: asyncio.StreamReader | None) -> bytes:
    """The last of all that comes, up to its end."""
    kept = bytearray()
    while source is not None and (data := await source.read(_READ)):
        kept += data
        del kept[:-_MOST_SAID]
    return bytes(kept)
