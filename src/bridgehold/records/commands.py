"""Commands, tool calls and questions to the audit: what was let through, how it ended, what was refused."""

from __future__ import annotations

from bridgehold.records.workers import (
    Event,
)


class CommandIntent(Event, frozen=True, kw_only=True, tag="command.intent"):
    """Durable before the command runs."""

    bridge: str
    operation: str
    grant: str
    rule: str
    arguments_digest: str
    arguments_bytes: int
    arguments_preview: str
    deadline_ms: int
    resource: str = ""
    """The kind of resource that the operation works on."""
    parent: str = ""
    replays: str = ""
    """The command of a lost session that this one repeats."""


class CommandOutcome(Event, frozen=True, kw_only=True, tag="command.outcome"):
    """`intent` is the event reference of the intent. Three flags: transport, application, decision."""

    intent: str
    transport_ok: bool
    application_ok: bool
    code: str = ""
    reason: str = ""
    cpu_us: int = 0
    memory_peak_bytes: int = 0
    ms: int = 0
    result_digest: str = ""
    """Of its JSON, in which a file's bytes that came beside it stand as their number and digest."""
    result_bytes: int = 0
    traceback: str = ""
    """Of the guest's code, where that failed: its own words, bounded."""


class CommandRefused(Event, frozen=True, kw_only=True, tag="command.refused"):
    """A command was not let through. `arguments_preview` is short and holds no key.

    Of more than 5,000 values nothing is shown, and the digest is of what is said instead.
    """

    bridge: str
    operation: str
    rule: str
    reason: str
    source: str
    arguments_digest: str = ""
    arguments_preview: str = ""


class ToolIntent(Event, frozen=True, kw_only=True, tag="tool.intent"):
    """Durable before the tool runs. `parent` is the command that called it."""

    parent: str
    tool: str
    how: str
    """``caller``, ``http``, ``process`` or ``host``: where it runs."""
    rule: str
    arguments_digest: str
    arguments_bytes: int
    arguments_preview: str


class ToolOutcome(Event, frozen=True, kw_only=True, tag="tool.outcome"):
    """`intent` is the event reference of the intent."""

    intent: str
    tool: str
    ok: bool
    code: str = ""
    reason: str = ""
    ms: int = 0
    result_digest: str = ""
    result_bytes: int = 0


class ToolRefused(Event, frozen=True, kw_only=True, tag="tool.refused"):
    """The bridge asked for a tool that it may not call, that isn't there, or with other arguments."""

    tool: str
    rule: str
    reason: str
    source: str
    arguments_digest: str = ""


class AuditQueried(Event, frozen=True, kw_only=True, tag="audit.queried"):
    """A caller of the host asked the audit, and was told of `count` events. On the disk before it was."""

    question: str
    """As it was asked, but for its texts in quotation marks and behind ``~``."""
    count: int
    code: str = ""
    """Of the error, where it was told nothing."""
