"""What goes out: what a cell decided of it, and what the keeper sent by its own hands.

Nobody but the keeper may write `SENDING_KINDS`. A cell that is taken over can leave out what it decided
(`egress.intent`), and not what went out.
"""

from __future__ import annotations

from bridgehold.records.workers import Event, kind_of


class _Leaving(Event, frozen=True, kw_only=True):
    """A request that is about to leave for `provider`; durable before it does."""

    provider: str
    host: str
    method: str
    path: str
    rule: str
    """Of the session's grant."""
    how: str = "gateway"
    reserved: int = 0
    """Tokens that the budget is charged with until its end says better."""
    fees: int = 0
    """Millionths of money, likewise: of what the provider bills by use."""
    model: str = ""
    """What the request is for, in its own words: by its price money is counted."""


class EgressIntent(_Leaving, frozen=True, kw_only=True, tag="egress.intent"):
    """A request is about to leave for `provider`; written before it does. `background`: for no command."""

    kept: bool = False
    """A cell's: the keeper writes down what goes out of it and keeps its account (`egress.sent`)."""
    background: bool = False


class EgressSent(_Leaving, frozen=True, kw_only=True, tag="egress.sent"):
    """A cell's request is about to leave for `provider`; durable before it does. It has an `egress.ended`.

    `principal` and `command` are the cell's word; all else is the keeper's: `rule` is as the front told it.
    """

    decided: str = ""
    """Reference of the `egress.intent` that the cell names for it."""
    request_bytes: int = 0


class _Left(Event, frozen=True, kw_only=True):
    """What became of one, which `intent` names."""

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
    """Tokens that the budget was charged with: never fewer than were said or seen."""
    fees: int = 0
    """Millionths of money that it was charged with beside them."""
    unsent: bool = False
    """Nothing of it has reached the provider: no budget counts it, neither its tokens nor the request."""
    code: str = ""
    estimated: bool = False
    """The provider named no tokens: they are counted from bytes and stream events that flowed by."""


class EgressOutcome(_Left, frozen=True, kw_only=True, tag="egress.outcome"):
    """One allowed request through the gateway, when it ended."""

    background: bool = False
    scrubbed: int = 0
    """How many times the key's own value was removed from what the provider sent back."""
    kept: bool = False
    """As its intent's."""
    digest: str = ""
    """Of a download: ``sha256:`` of what came, whether it was kept or not."""
    followed: str = ""
    """Of a download: the last host that the hub's redirects led to."""


class EgressEnded(_Left, frozen=True, kw_only=True, tag="egress.ended"):
    """What became of an `egress.sent`, which `intent` names."""


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


class EgressRefused(Event, frozen=True, kw_only=True, tag="egress.refused"):
    """A guest's request was not let out. `severity` is ``high`` where a key or another tenant is involved."""

    host: str
    method: str
    path: str
    rule: str
    reason: str
    source: str
    severity: str = "normal"
    """``high`` where a placeholder went to the wrong place or a tunnel lied about its name."""
    background: bool = False


SENDING_KINDS = frozenset(kind_of(one) for one in (EgressSent, EgressEnded, EgressStopped))
"""What the keeper writes, and it alone."""
