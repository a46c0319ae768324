"""Legacy session ids of one caller, within its one session: whose programs, and whose data."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from bridgehold.errors import BridgeholdError, UsageError
from bridgehold.faces.legacy.commands import Step

ANONYMOUS = "anonymous"
_FORGETTING = {"delete", "remove", "unset"}

Call = Callable[[Step, str], Awaitable[Any]]
"""Runs an operation in the host's session of that id."""


class CallerSessions:
    """They last as long as the host's session; `call` runs operations in it."""

    def __init__(self, bridge: str, call: Call) -> None:
        self._bridge = bridge
        self._call = call
        self._programs: dict[str, set[str]] = {}
        self._with_data: set[str] = set()
        self._turn = asyncio.Lock()

    @property
    def count(self) -> int:
        """How many of the caller's sessions have programs or data."""
        return len(self._programs.keys() | self._with_data)

    @property
    def programs(self) -> int:
        """How many programs they have together."""
        return sum(map(len, self._programs.values()))

    def forget(self) -> None:
        """The host's session has ended, and everything with it."""
        self._programs.clear()
        self._with_data.clear()

    def remember(self, step: Step, name: str, value: Any) -> Any:
        """Note what `step` made or deleted in the caller's session `name`; `value`, or what is its part."""
        if not isinstance(value, dict):
            return value
        if step.operation == f"{self._bridge}:create_program":
            self._programs.setdefault(name or ANONYMOUS, set()).add(str(value.get("program_id", "")))
        elif step.operation == f"{self._bridge}:delete_program":
            for made in self._programs.values():
                made.discard(str(step.arguments.get("program_id", "")))
        elif step.operation == f"{self._bridge}:list_programs" and name in self._programs:
            made = self._programs[name]
            listed = [one for one in value.get("programs", ()) if one.get("id") in made]
            return {**value, "programs": listed, "total_count": len(listed)}
        return value

    async def clean(self, args: dict[str, object], session: str) -> dict[str, object]:
        """Delete the programs and the data of one. Raises `UsageError` where none is named."""
        name = _named(args)
        if name not in self._programs and name not in self._with_data:
            return {"status": "not_found", "session_id": name}
        removed = 0
        for program in sorted(self._programs.pop(name, ())):
            step = Step(operation=f"{self._bridge}:delete_program", arguments={"program_id": program})
            with contextlib.suppress(BridgeholdError):
                await self._call(step, session)
                removed += 1
        if name in self._with_data:
            self._with_data.discard(name)
            await self._write(name, {}, session)
        return {"status": "cleaned", "session_id": name, "programs_removed": removed}

    async def data(self, args: dict[str, object], session: str) -> dict[str, object]:
        """``get_session_data``; with a `key` or an `operation`, ``update_session_data``."""
        name = _named(args)
        async with self._turn:
            kept = await self._call(Step(operation=f"{self._bridge}:get_session_data"), session)
            own = dict(kept.get("data", {}).get(name) or {})
            if "key" not in args and "operation" not in args:
                return {"session_id": name, "status": "ok", "data": own}
            key = args.get("key")
            if not isinstance(key, str):
                raise UsageError("a key is missing, or no text", where="args.key")
            if args.get("operation") in _FORGETTING:
                own.pop(key, None)
            else:
                own[key] = args.get("value")
            await self._write(name, own, session)
        self._with_data.add(name)
        return {"session_id": name, "status": "acknowledged", "keys": sorted(own)}

    async def _write(self, name: str, own: dict[str, object], session: str) -> None:
        update = Step(operation=f"{self._bridge}:update_session_data", arguments={"data": {name: own}})
        await self._call(update, session)


def _named(args: dict[str, object]) -> str:
    name = args.get("session_id")
    if not isinstance(name, str) or not name:
        raise UsageError("session_id is missing", where="args.session_id")
    return name
