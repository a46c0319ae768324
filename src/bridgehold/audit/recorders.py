"""Who writes what: the recorders of the journal's channels, and the kinds that each may write. Pure.

A channel was given to its recorder by the supervisor, or opened by the host for one tenant. So what a
recorder says of itself counts for nothing: its channel says who it is.
"""

from __future__ import annotations

from typing import Literal

from bridgehold.audit.events import JOURNAL_KINDS, OUTCOME_KINDS, Event, kind_of
from bridgehold.records.sendings import SENDING_KINDS
from bridgehold.records.workers import RECORDED_KINDS

Name = Literal["host", "launcher", "keeper", "tenant"]

TENANT_KINDS = frozenset(
    {
        *("session.opened", "session.extended", "session.closed", "protocol.violation", "start.fell_back"),
        *("command.intent", "command.outcome", "command.refused"),
        *("tool.intent", "tool.outcome", "tool.refused"),
        *("egress.intent", "egress.outcome", "egress.refused"),
        *("artifact.changed", "artifact.read", "secret.changed", "request.refused"),
        *("zygote.started", "zygote.ended", "events.folded"),
    }
)
"""What a channel of one tenant may write: that tenant's own story, and nothing of the host's."""
_KINDS: dict[Name, frozenset[str]] = {
    "launcher": RECORDED_KINDS,
    "keeper": SENDING_KINDS,
    "tenant": TENANT_KINDS,
}
"""The host may write what is nobody else's alone."""


class Recorder:
    """Whose one channel is. `broken` says how it broke the rules: nothing more is taken from it."""

    __slots__ = ("broken", "name", "number", "tenant")

    def __init__(self, name: Name, tenant: str = "", number: int = 0) -> None:
        """`tenant`: of a ``tenant``'s channel; `number`: which of them it is."""
        self.name: Name = name
        self.tenant = tenant
        self.number = number
        self.broken = ""

    @property
    def owner(self) -> str:
        """By what its open intents are known: nobody else may end them, nor its tenant's next channel."""
        return f"tenant {self.tenant} {self.number}" if self.tenant else self.name


HOST = Recorder("host")
"""Of a journal whose one client is its host."""


def _owner_of(kind: str, *, launcher: bool) -> str:
    """Who alone may write it, if it is anybody's alone."""
    if kind in SENDING_KINDS:
        return "keeper"
    return "launcher" if launcher and kind in RECORDED_KINDS else ""


def breach(recorder: Recorder, event: Event, owner: str, *, launcher: bool) -> str:
    """How `event` breaks the rules of its channel; empty where it does not.

    `owner`: whose the open intent is that it names; empty where there is none. `launcher`: it has a channel.
    """
    kind = kind_of(event)
    if kind in JOURNAL_KINDS:
        return f"{kind} is an event of the journal's own kind"
    kinds = _KINDS.get(recorder.name)
    if kinds is None and (whose := _owner_of(kind, launcher=launcher)):
        return f"{kind} is the {whose}'s to write"
    unrecorded = recorder.name == "tenant" and kind in RECORDED_KINDS and not launcher
    if kinds is not None and kind not in kinds and not unrecorded:
        return f"{kind} is not the {recorder.name}'s to write"
    if recorder.tenant and event.tenant != recorder.tenant:
        return "an event of another tenant"
    if kind in OUTCOME_KINDS and owner and owner != recorder.owner:
        return f"{kind} of what another recorder has begun"
    return ""
