"""Events as OCSF (Open Cybersecurity Schema Framework 1.3) JSON lines, for a SIEM. Pure.

Our own schema stays what is stored; this is a view. What OCSF has no place for is `unmapped`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

import msgspec

from bridgehold.audit.entries import Entry

_SCHEMA = "1.3.0"
_OTHER = 99


class _Class(NamedTuple):
    uid: int
    name: str
    category: int
    category_name: str


PROCESS = _Class(1007, "Process Activity", 1, "System Activity")
NETWORK = _Class(4001, "Network Activity", 4, "Network Activity")
HTTP = _Class(4002, "HTTP Activity", 4, "Network Activity")
POLICY = _Class(5019, "Device Config State Change", 5, "Discovery")
LIFECYCLE = _Class(6002, "Application Lifecycle", 6, "Application Activity")
API = _Class(6003, "API Activity", 6, "Application Activity")

_METHODS = {
    "CONNECT": 1,
    "DELETE": 2,
    "GET": 3,
    "HEAD": 4,
    "OPTIONS": 5,
    "POST": 6,
    "PUT": 7,
    "TRACE": 8,
}
_LIFECYCLE = {
    "host.started": 3,
    "session.opened": 3,
    "worker.started": 3,
    "worker.attested": 3,
    "journal.opened": 3,
    "host.stopped": 4,
    "session.closed": 4,
    "worker.exited": 4,
    "journal.closed": 4,
    "environment.built": 1,
    "session.extended": 99,
}
_PROCESS = {"command.intent": 1, "command.outcome": 2, "command.refused": 1}
_CONFIGURATION = frozenset(
    {"admin.intent", "admin.outcome", "grant.resolved", "policy.loaded", "secret.changed"}
)
_MEDIUM = frozenset(
    {
        "command.refused",
        "egress.refused",
        "worker.refused",
        "principal.refused",
        "request.refused",
        "environment.refused",
        "tool.refused",
    }
)
_HIGH = frozenset({"protocol.violation", "host.degraded"})


def export_ocsf(entries: Iterable[Entry], version: str = "") -> Iterator[str]:
    """One JSON line per entry, without newline. `version` is the product's."""
    for entry in entries:
        yield msgspec.json.encode(to_ocsf(entry, version)).decode("utf-8")


def to_ocsf(entry: Entry, version: str = "") -> dict[str, object]:
    """One entry as an OCSF event."""
    kind, activity = _classify(entry)
    event: dict[str, object] = {
        "class_uid": kind.uid,
        "class_name": kind.name,
        "category_uid": kind.category,
        "category_name": kind.category_name,
        "activity_id": activity,
        "type_uid": kind.uid * 100 + activity,
        "time": _milliseconds(entry.time),
        "severity_id": _severity(entry),
        "status_id": _status(entry),
        "message": entry.kind,
        "metadata": {
            "version": _SCHEMA,
            "product": {"name": "Bridgehold", "vendor_name": "Bridgehold", "version": version},
            "uid": entry.ref,
            "original_time": entry.time,
            "log_name": entry.place,
            "tenant_uid": entry.tenant,
            "correlation_uid": entry.command or entry.session,
        },
        "actor": {
            "user": {"name": entry.principal, "type_id": 0},
            "session": {"uid": entry.session},
        },
        "unmapped": entry.fields,
    }
    if entry.kind.endswith(".refused"):
        event |= {"action_id": 2, "disposition_id": 2, "status_detail": entry.text("reason")}
    elif entry.kind.endswith(".intent"):
        event |= {"action_id": 1, "disposition_id": 1}
    return event | _details(entry, kind)


def _classify(entry: Entry) -> tuple[_Class, int]:
    if entry.kind in _PROCESS:
        return PROCESS, _PROCESS[entry.kind]
    if entry.kind.startswith("egress."):
        method = entry.text("method")
        if method == "CONNECT" or entry.text("how") == "connect":
            return NETWORK, 5 if entry.kind == "egress.refused" else 1
        if entry.text("model"):
            return API, 1
        return HTTP, _METHODS.get(method, _OTHER)
    if entry.kind in _CONFIGURATION:
        return POLICY, 1
    return LIFECYCLE, _LIFECYCLE.get(entry.kind, _OTHER)


def _details(entry: Entry, kind: _Class) -> dict[str, object]:
    """The objects that the class asks for."""
    if kind is PROCESS:
        command = {"cmd_line": entry.text("operation"), "uid": entry.command, "name": entry.text("bridge")}
        return {"process": command, "device": {"hostname": "", "type_id": 0}}
    if kind is LIFECYCLE:
        return {"app": {"name": entry.text("bridge") or "bridgehold", "vendor_name": "Bridgehold"}}
    if kind is POLICY:
        return {"policy": {"name": entry.text("name"), "uid": entry.text("digest")}}
    request = {
        "http_method": entry.text("method"),
        "url": {"hostname": entry.text("host"), "path": entry.text("path"), "scheme": "https"},
    }
    details: dict[str, object] = {"dst_endpoint": {"hostname": entry.text("host")}}
    if kind is not NETWORK:
        details["http_request"] = request
    if status := entry.number("status"):
        details["http_response"] = {"code": status, "length": entry.number("response_bytes")}
    if kind is API:
        service = {"name": entry.text("provider")}
        details["api"] = {"operation": entry.text("path"), "service": service}
    return details


def _severity(entry: Entry) -> int:
    """1 informational, 3 medium, 4 high."""
    if entry.kind in _HIGH or entry.text("severity") == "high":
        return 4
    return 3 if entry.kind in _MEDIUM else 1


def _status(entry: Entry) -> int:
    """0 unknown, 1 success, 2 failure."""
    if entry.kind.endswith(".outcome"):
        if entry.text("code") or entry.fields.get("application_ok") is False:
            return 2
        return 2 if entry.number("status") >= 400 else 1
    return 2 if entry.kind in _MEDIUM | _HIGH else 0 if entry.kind.endswith(".intent") else 1


def _milliseconds(text: str) -> int:
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        return 0
