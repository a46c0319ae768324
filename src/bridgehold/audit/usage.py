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


def fold(entries: Iterable[Entry], *, tenant: str = "", since: str = "", until: str = "") -> list[Used]:
    """The rows, in order of their names. `since`, `until`: a time as the audit writes it, or its start."""
    bridges: dict[str, str] = {}
    rows: dict[tuple[str, str, str, str], Used] = {}
    unfinished: dict[tuple[str, str, str], Entry] = {}

    def row(entry: Entry, provider: str = "", model: str = "") -> Used:
        key = (entry.tenant, bridges.get(entry.session, ""), provider, model)
        if key not in rows:
            rows[key] = Used(tenant=key[0], bridge=key[1], provider=provider, model=model)
        return rows[key]

    for entry in entries:
        if entry.kind == "session.opened":
            bridges[entry.session] = entry.text("bridge")
        if told_again(entry):
            continue
        if begun := _ENDS.get(entry.kind):
            unfinished.pop((begun, entry.tenant, entry.text("intent")), None)
        if tenant not in ("", entry.tenant) or entry.time < since or (until and entry.time >= until):
            continue
        match entry.kind:
            case "session.opened":
                row(entry).sessions += 1
            case "command.outcome":
                used = row(entry)
                used.commands += 1
                used.failed += bool(entry.text("code"))
                used.cpu_us += _count(entry, "cpu_us")
            case "egress.intent" | "egress.sent" if entry.text("provider"):
                unfinished[entry.kind, entry.tenant, entry.ref] = entry
            case "egress.outcome" | "egress.ended":
                used = row(entry, entry.text("provider"), entry.text("model"))
                used.requests += entry.fields.get("unsent") is not True
                used.failed += bool(entry.text("code"))
                used.input_tokens += _count(entry, "input_tokens")
                used.output_tokens += _count(entry, "output_tokens")
                used.charged += _count(entry, "charged")
                used.estimated += entry.fields.get("estimated") is True
                used.sent_bytes += _count(entry, "request_bytes")
                used.received_bytes += _count(entry, "response_bytes")
            case _:
                pass
    for entry in unfinished.values():
        used = row(entry, entry.text("provider"), entry.text("model"))
        used.requests += 1
        used.charged += _count(entry, "reserved")
    return [rows[key] for key in sorted(rows)]


def told_again(entry: Entry) -> bool:
    """Whether it is a cell's word on a request that the keeper tells of itself."""
    return entry.fields.get("kept") is True and entry.kind in ("egress.intent", "egress.outcome")


def _count(entry: Entry, name: str) -> int:
    """Nobody has used less than nothing, whatever a cell writes."""
    return max(0, entry.number(name))
