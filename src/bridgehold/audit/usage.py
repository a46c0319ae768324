"""What was used, as a fold of the audit: sessions, commands, processor time, requests, tokens, bytes.

By tenant and bridge, so that it can be charged to whom it belongs. Counts come from the kernel and the
gateway, never from a guest; tokens that a provider did not name are estimates, and counted as such. A
request whose end nobody wrote (it is under way, or its host was killed) counts with its reservation; one that
was never sent doesn't. What the keeper sends for a cell counts by the keeper's word, and not by the cell's.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bridgehold.audit.entries import Entry

_FAILED = 400
"""From this status on an answer is a provider's error."""
_ENDS = {"egress.outcome": "egress.intent", "egress.ended": "egress.sent"}
"""What ends what: a request is ended by whoever began it, and for its own tenant."""


class Used(msgspec.Struct, kw_only=True):
    """Of one tenant with one bridge, and of one provider where the row is a provider's."""

    tenant: str
    bridge: str
    provider: str = ""
    """Empty: the row of the sandboxes' own work."""
    model: str = ""
    sessions: int = 0
    commands: int = 0
    failed: int = 0
    """Commands; in a provider's row, of the requests that went out."""
    cpu_us: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    charged: int = 0
    """Tokens that budgets were charged with: never fewer than were said or seen."""
    estimated: int = 0
    """Requests whose tokens are estimates."""
    sent_bytes: int = 0
    received_bytes: int = 0


class Usage:
    """Takes events, oldest first, and makes the rows."""

    def __init__(self, *, tenant: str = "", since: str = "", until: str = "") -> None:
        """`since`, `until`: a time as the audit writes it, or its start."""
        self._tenant, self._since, self._until = tenant, since, until
        self._bridges: dict[tuple[str, str], str] = {}
        self._rows: dict[tuple[str, str, str, str], Used] = {}
        self._unfinished: dict[tuple[str, str, str], Entry] = {}

    def add(self, entry: Entry) -> None:
        """Count one event."""
        if entry.kind == "session.opened":
            self._bridges[entry.tenant, entry.session] = entry.text("bridge")
        if told_again(entry):
            return
        if begun := _ENDS.get(entry.kind):
            self._unfinished.pop((begun, entry.tenant, entry.text("intent")), None)
        if self._tenant not in ("", entry.tenant) or entry.time < self._since:
            return
        if self._until and entry.time >= self._until:
            return
        match entry.kind:
            case "session.opened":
                self._row(self._rows, entry).sessions += 1
            case "command.outcome":
                used = self._row(self._rows, entry)
                used.commands += 1
                used.failed += bool(entry.text("code"))
                used.cpu_us += _count(entry, "cpu_us")
            case "egress.intent" | "egress.sent" if entry.text("provider"):
                self._unfinished[entry.kind, entry.tenant, entry.ref] = entry
            case "egress.outcome" | "egress.ended":
                _add_request(self._row(self._rows, entry, entry.text("provider"), entry.text("model")), entry)
            case _:
                pass

    def rows(self) -> list[Used]:
        """In order of their names; what has no end yet is counted with its reservation."""
        rows = {key: msgspec.structs.replace(used) for key, used in self._rows.items()}
        for entry in self._unfinished.values():
            used = self._row(rows, entry, entry.text("provider"), entry.text("model"))
            used.requests += 1
            used.charged += _count(entry, "reserved")
        return [rows[key] for key in sorted(rows)]

    def _row(
        self, rows: dict[tuple[str, str, str, str], Used], entry: Entry, provider: str = "", model: str = ""
    ) -> Used:
        key = (entry.tenant, self._bridges.get((entry.tenant, entry.session), ""), provider, model)
        if key not in rows:
            rows[key] = Used(tenant=key[0], bridge=key[1], provider=provider, model=model)
        return rows[key]


def _add_request(used: Used, entry: Entry) -> None:
    if entry.fields.get("unsent") is not True:  # what was refused here never was a request there
        used.requests += 1
        used.failed += bool(entry.text("code")) or entry.number("status") >= _FAILED
    used.input_tokens += _count(entry, "input_tokens")
    used.output_tokens += _count(entry, "output_tokens")
    used.charged += _count(entry, "charged")
    used.estimated += entry.fields.get("estimated") is True
    used.sent_bytes += _count(entry, "request_bytes")
    used.received_bytes += _count(entry, "response_bytes")


def fold(entries: Iterable[Entry], *, tenant: str = "", since: str = "", until: str = "") -> list[Used]:
    """The rows of `entries`, in order of their names."""
    usage = Usage(tenant=tenant, since=since, until=until)
    for entry in entries:
        usage.add(entry)
    return usage.rows()


def told_again(entry: Entry) -> bool:
    """Whether it is a cell's word on a request that the keeper tells of itself."""
    return entry.fields.get("kept") is True and entry.kind in ("egress.intent", "egress.outcome")


def _count(entry: Entry, name: str) -> int:
    """Nobody has used less than nothing, whatever a cell writes."""
    return max(0, entry.number(name))
