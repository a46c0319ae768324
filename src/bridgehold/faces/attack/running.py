"""Acts, each in a session of its own, and the looks from outside that go with them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bridgehold.audit.entries import Entry
from bridgehold.audit.query import Query, query
from bridgehold.config.layout import Layout
from bridgehold.errors import BridgeholdError
from bridgehold.faces.attack.acts import Act, Look, program
from bridgehold.faces.attack.judging import Ended, Outcome, Seen, judge
from bridgehold.faces.attack.outside import Outside
from bridgehold.faces.attack.ways import Way
from bridgehold.host.cell.gateway.credentials import PREFIX
from bridgehold.host.front.boots import GATEWAY_PORT
from bridgehold.policies.model import MIB, Grant, Limits

FORGED = "attack.forged"
_FLOOD = 16 * MIB
_MOST_OUTPUT = MIB
_ROOM = 16 * MIB
"""By which a peak may pass the cap: what the kernel charges late, and its own pages."""
_SETTLE_SECONDS = 20.0


def facts_for(act: Act, grant: Grant, outside: Outside, layout: Layout) -> dict[str, object]:
    """What an act is told: limits, and the names of what it may try to reach."""
    limits = grant.limits
    return {
        **{name: getattr(limits, name) for name in _LIMITS},
        "mark": outside.mark,
        "victim": outside.victim,
        "victim_mark": f"victim-{outside.mark}",
        "canary": outside.canary,
        "canary_file": str(outside.canary_file),
        "marker": str(outside.marker),
        "abstract": outside.abstract,
        "port": outside.tcp.getsockname()[1],
        "udp_port": outside.udp.getsockname()[1],
        "addresses": ["127.0.0.1"],
        "gateway": GATEWAY_PORT,
        "host_files": [
            *map(str, (layout.secrets, layout.audit, layout.anchors, layout.config_file, layout.socket)),
            "/etc/shadow",
            "/root",
        ],
        "audit": str(layout.audit),
        "cpus": min(os.cpu_count() or 1, 64),
        "deadline_s": act.deadline_s,
        "flood_bytes": _FLOOD,
        "forged": FORGED,
        "placeholder": PREFIX,
    }


_LIMITS = (
    "memory_bytes",
    "cpu_millis",
    "processes",
    "open_files",
    "file_size_bytes",
    "scratch_bytes",
    "shm_bytes",
)


def run_acts(
    way: Way, acts: Iterable[Act], outside: Outside, say: Callable[[str], None]
) -> Iterator[Outcome]:
    """One outcome for each act, in turn; `say` hears each name before it runs."""
    for act in acts:
        say(act.name)
        if why := _idle(act, way.grant):
            yield judge(act, Ended(code="skipped", message=why), ())
            continue
        yield _one(way, act, outside)


def _idle(act: Act, grant: Grant) -> str:
    """Why there is nothing to try; empty where there is."""
    cores = grant.limits.cpu_millis >= (os.cpu_count() or 1) * 1000
    if act.name == "processors" and cores:
        return "the grant gives every processor of this machine"
    return ""


def _one(way: Way, act: Act, outside: Outside) -> Outcome:
    grant = way.grant
    outside.most, arrived = 0, outside.arrived
    code = program(act, msgspec.json.encode(facts_for(act, grant, outside, way.layout)))
    session, output, peak = "", 0, 0
    try:
        with way.client.session(way.bridge, tenant=grant.tenant) as opened:
            session = opened.id
            reply = way.run(opened, code, act.deadline_s * 1000)
        peak = reply.usage.memory_peak_bytes
        output = len(msgspec.json.encode([reply.value, reply.output]))
        ended = Ended(value=reply.value.get("value"), event=reply.receipt)
    except BridgeholdError as error:
        ended = Ended(code=error.code, message=error.message, event=error.event)
    events = _settled(way.layout.audit, session)
    look = Looks(
        outside=outside,
        limits=grant.limits,
        audit=way.layout.audit,
        events=events,
        arrived=outside.arrived - arrived,
        peak_bytes=max([peak, *(_number(entry, "memory_peak_bytes") for entry in events)]),
        output_bytes=output,
    )
    seen = tuple(look.at(name) for name in act.looks)
    outcomes = [entry for entry in events if entry.kind in ("command.outcome", "command.refused")]
    told = any(entry.ref == ended.event for entry in outcomes) if ended.event else bool(outcomes)
    written = _seen("its outcome is in the audit", "its outcome is not in the audit", not told)
    return judge(act, ended if way.lasting else msgspec.structs.replace(ended, event=""), (*seen, written))


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What there is to look at from outside, once an act is over."""

    outside: Outside
    limits: Limits
    audit: Path
    events: list[Entry]
    """Of its session."""
    arrived: int
    """Connections and datagrams, in its time."""
    peak_bytes: int
    output_bytes: int

    def at(self, name: Look) -> Seen:  # noqa: PLR0911 - one for each look
        """One look, and whether the barrier did not hold."""
        outside = self.outside
        match name:
            case "marker":
                return _seen("no file was written", "the file was written", outside.marker.exists())
            case "listener":
                return _seen("nothing arrived", "it was reached", self.arrived > 0)
            case "victim":
                return _seen("the process lives", "the process was ended", not outside.victim_lives)
            case "left":
                return _counted("processes left", outside.left(), 0)
            case "memory":
                most = (self.limits.memory_bytes + _ROOM) // MIB
                return _counted("MiB at the peak", self.peak_bytes // MIB, most)
            case "processes":
                return _counted("processes at once", outside.most, self.limits.processes)
            case "output":
                return _counted("bytes of output", self.output_bytes, _MOST_OUTPUT)
            case "violation":
                told = any(entry.kind == "protocol.violation" for entry in self.events)
                there = "a protocol.violation is in the audit"
                return _seen(there, "no protocol.violation is in the audit", not told)
            case "forged":
                found = query(self.audit, Query(text=outside.mark, limit=500))
                forged = any(entry.kind == FORGED for entry in found)
                return _seen("no line of the audit is forged", "a forged line is in the audit", forged)


def _seen(holds: str, breaks: str, broken: bool) -> Seen:
    return Seen(what=breaks if broken else holds, broken=broken)


def _counted(what: str, found: int, most: int) -> Seen:
    return Seen(what=f"{found} {what}, of {most} allowed", broken=found > most)


def _number(entry: Entry, name: str) -> int:
    found = entry.fields.get(name, 0)
    return found if isinstance(found, int) else 0


def _settled(audit: Path, session: str) -> list[Entry]:
    """The events of a session, once its end is among them or time is up; none where there was none."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while session:
        found = list(query(audit, Query(session=session, limit=1_000)))
        if any(entry.kind == "session.closed" for entry in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)
    return []
