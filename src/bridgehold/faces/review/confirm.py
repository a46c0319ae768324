"""The second factor of a decision on the page (pure): a code that the terminal shows for one act.

The page says what it wants; the terminal says what that is, and gives a code for just that. Whoever has the
browser alone, or makes it ask, decides nothing.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from bridgehold.errors import BusyError, DeniedError
from bridgehold.ids import random_id

Decision = Literal["approve", "reject"]
VALID_S = 120.0
"""A code is worth something for so long."""
MOST_TRIES = 3
"""Wrong codes, and the act has to be asked for again."""
MOST_ASKED, _PER_S = 6, 60.0
"""Codes in so many seconds: a terminal that scrolls is read by nobody."""
_LETTERS = 8


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """What a code is for."""

    proposal: str
    decision: Decision
    seen: str
    """The digest of what was looked at; of one that is decided already, its state."""
    reason: str = ""


class _Held(msgspec.Struct, kw_only=True):
    act: Act
    code: str
    until: float
    tries: int = 0


class Confirmations:
    """One act waits at a time; another one takes its place."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds that only grow."""
        self._clock = clock
        self._held: _Held | None = None
        self._asked: deque[float] = deque(maxlen=MOST_ASKED)

    def ask(self, act: Act) -> str:
        """The code for `act`, for the terminal alone. Raises `BusyError`."""
        now = self._clock()
        if len(self._asked) == MOST_ASKED and now - self._asked[0] < _PER_S:
            raise BusyError(f"{MOST_ASKED} codes were shown within a minute", hint="Wait a minute.")
        self._asked.append(now)
        code = random_id("c", _LETTERS).removeprefix("c-")
        self._held = _Held(act=act, code=code, until=now + VALID_S)
        return f"{code[:4]}-{code[4:]}"

    def waiting(self, proposal: str) -> Act | None:
        """What of this proposal waits for its code."""
        held = self._held
        return held.act if held is not None and self._is_of(held, proposal) else None

    def confirm(self, proposal: str, code: str) -> Act:
        """The act that this is the code of, once. Raises `DeniedError`, alike whatever is wrong."""
        held = self._held
        shown = code[:64].strip().lower().replace("-", "").encode("utf-8", "replace")
        right = hmac.compare_digest(shown, (held.code if held is not None else "-").encode("ascii"))
        if held is None or not self._is_of(held, proposal):
            raise _wrong()
        held.tries += 1
        if right or held.tries >= MOST_TRIES:
            self._held = None
        if not right:
            raise _wrong()
        return held.act

    def _is_of(self, held: _Held, proposal: str) -> bool:
        return held.act.proposal == proposal and self._clock() < held.until


def _wrong() -> DeniedError:
    hint = "Ask again on the proposal's page: the terminal shows another code."
    return DeniedError("this is not the code of what waits here, or it is too late", hint=hint)
