"""Which recorded exchange a call is: the next one, or any that is like it (pure but for what was used)."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any, Literal

from bridgehold.errors import TranscriptError
from bridgehold.faces.testing.transcript import Called, Ended, Exchange

Order = Literal["strict", "any"]
_DIFF_LINES = 60
_NAMED = 20


class Script:
    """The exchanges that are still to come.

    With `order` ``any``, sessions that were opened alike stand for each other: whichever the caller gets, its
    first command says which of the recorded ones it is.
    """

    def __init__(self, exchanges: tuple[Exchange, ...], order: Order = "strict") -> None:
        self._left = list(exchanges)
        self._count = len(exchanges)
        self._order = order
        self._alike = _alike(exchanges)
        self._bound: dict[str, str] = {}
        """Session that was handed out → the recorded one that it turned out to be."""

    def take(self, method: str, params: dict[str, Any]) -> Exchange:
        """The exchange that this call is. Raises `TranscriptError` with what was expected and what came."""
        came = Called(call=self._count - len(self._left) + 1, method=method, params=params)
        candidates = self._left[:1] if self._order == "strict" else self._left
        for exchange in candidates:
            if self._is(came, exchange.called):
                self._left.remove(exchange)
                return exchange
        raise self._unexpected(came)

    def unused(self) -> TranscriptError | None:
        """What to say of recorded calls that nobody made."""
        if not self._left:
            return None
        named = ", ".join(
            f"{one.called.name} (line {one.where.rpartition(':')[2]})" for one in self._left[:_NAMED]
        )
        more = len(self._left) - _NAMED
        named += f" and {more} more" if more > 0 else ""
        calls = "1 recorded call was" if len(self._left) == 1 else f"{len(self._left)} recorded calls were"
        return TranscriptError(f"{calls} not made: {named}", where=self._left[0].where)

    def _is(self, came: Called, recorded: Called) -> bool:
        if came.method != recorded.method:
            return False
        asked, then = _given(came.params), _given(recorded.params)
        if self._order == "strict":
            return asked == then
        given, meant = asked.pop("session", None), then.pop("session", None)
        return asked == then and self._binds(given, meant)

    def _binds(self, given: object, meant: object) -> bool:
        if not isinstance(given, str) or not isinstance(meant, str) or given not in self._alike:
            return given == meant
        if given in self._bound:
            return self._bound[given] == meant
        if meant not in self._alike[given] or meant in self._bound.values():
            return False
        self._bound[given] = meant
        return True

    def _unexpected(self, came: Called) -> TranscriptError:
        nearest = self._nearest(came)
        if nearest is None:
            return TranscriptError(
                f"call {came.call} was not recorded: {came.name}; all {self._count} recorded calls were made"
            )
        expected = nearest.called
        if self._order == "strict":
            said = f"call {came.call} should have been {expected.name}, and was {came.name}"
            if expected.name == came.name:
                said = f"call {came.call}, {came.name}, has other parameters than were recorded"
        else:
            said = f"no recorded call that is left is like this {came.name}; the nearest differs"
        return TranscriptError(f"{said}\n{difference(_plain(expected), _plain(came))}", where=nearest.where)

    def _nearest(self, came: Called) -> Exchange | None:
        if self._order == "any":
            for exchange in self._left:
                if (exchange.called.method, exchange.called.name) == (came.method, came.name):
                    return exchange
        return self._left[0] if self._left else None


def _given(params: dict[str, Any]) -> dict[str, Any]:
    """What was really given: a parameter that a later version adds and leaves empty makes no difference."""
    return {name: value for name, value in params.items() if value not in ("", 0, None, [], {})}


def _alike(exchanges: tuple[Exchange, ...]) -> dict[str, frozenset[str]]:
    """Recorded session → those that were opened with the same parameters, itself among them."""
    opened = list(_opened(exchanges))
    return {
        session: frozenset(other for other, theirs in opened if theirs == params)
        for session, params in opened
    }


def _opened(exchanges: tuple[Exchange, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    for exchange in exchanges:
        last = exchange.steps[-1]
        if (
            exchange.called.method == "session.open"
            and isinstance(last, Ended)
            and isinstance(last.value, dict)
        ):
            yield str(last.value.get("id")), exchange.called.params


def _plain(called: Called) -> dict[str, Any]:
    return {"method": called.method, **called.params}


def difference(recorded: Any, came: Any) -> str:
    """Lines that differ between two plain values, as a bounded unified diff."""
    before, after = (
        json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).splitlines()
        for value in (recorded, came)
    )
    lines = list(difflib.unified_diff(before, after, "recorded", "came", lineterm="", n=2))
    if len(lines) > _DIFF_LINES:
        lines = [*lines[:_DIFF_LINES], f"… {len(lines) - _DIFF_LINES} more lines"]
    return "\n".join(line if len(line) <= 300 else line[:297] + "…" for line in lines)
