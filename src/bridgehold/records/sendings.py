"""The keeper's own events: what it was asked to send for a cell, and how that ended.

Nobody else may write these. The cell says what was decided (`egress.intent`); the keeper, what went out by
its hands: a cell that is taken over can leave out the first and not the second.
"""

from __future__ import annotations

from bridgehold.records.workers import Event, kind_of


class EgressSent(Event, frozen=True, kw_only=True, tag="egress.sent"):
    """A cell's request is about to leave for `provider`; durable before it does. It has an `egress.ended`.

    `principal` and `command` are the cell's word; all else is the keeper's.
    """

    provider: str
    host: str
    method: str
    path: str
    rule: str
    """Of the session's grant, as the front told it."""
    how: str = "gateway"
    decided: str = ""
    """Reference of the `egress.intent` that the cell names for it."""
    request_bytes: int = 0
    reserved: int = 0
    """Tokens that the budget is charged with until its end says better."""
    model: str = ""


class EgressEnded(Event, frozen=True, kw_only=True, tag="egress.ended"):
    """What became of an `egress.sent`, which `intent` names."""

    intent: str
    provider: str
    host: str
    method: str
    path: str
    status: int = 0
    """The provider's; 0: none has come."""
    request_bytes: int = 0
    response_bytes: int = 0
    ms: int = 0
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    charged: int = 0
    unsent: bool = False
    """Nothing of it has reached the provider: no budget counts it."""
    code: str = ""
    estimated: bool = False
    """The provider named no tokens: they are counted from what flowed by."""


class EgressStopped(Event, frozen=True, kw_only=True, tag="egress.stopped"):
    """A cell asked for what the front's word doesn't allow, and nothing of it went out.

    A sound cell asks for nothing of the kind, but for what changes meanwhile: budgets, ends of sessions.
    """

    provider: str
    host: str
    method: str
    path: str
    rule: str
    reason: str
    decided: str = ""
    folded: int = 0
    """So many more since the last one, past the rate."""


SENDING_KINDS = frozenset(kind_of(one) for one in (EgressSent, EgressEnded, EgressStopped))
"""What the keeper writes, and it alone."""
