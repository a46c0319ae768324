"""Stored lines as the words of other systems: RFC 5424 and OTLP logs (JSON). Pure, over raw lines."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from datetime import datetime

import msgspec

from bridgehold.audit import chain, rotations
from bridgehold.audit.anchors import PUBLIC_KEY, SUFFIX
from bridgehold.errors import AuditError

_FACILITY = 13
"""``log audit``."""
_INFO, _WARNING = 6, 4
_MOST_NAME = 255
_SD = "bridgehold@32473"
"""32473 is the number that is free for examples: we have none of our own."""


class _Anchor(msgspec.Struct, frozen=True):
    count: int = 0
    record: str = ""


_ANCHOR = msgspec.json.Decoder(_Anchor)
_MARK = (b'"kind":"anchor.signed"', b'"kind":"anchor.key_rotated"')


def host_and_port(to: str, port: int) -> tuple[str, int]:
    """Of ``HOST:PORT``, IPv6 in brackets; `port` where none is named."""
    host, _, number = to.rpartition(":") if not to.endswith("]") and ":" in to else (to, "", "")
    return host.strip("[]"), int(number or port)


def _severity(kind: str) -> int:
    return _WARNING if kind.endswith(("refused", "violation", "degraded")) else _INFO


def _printable(text: str, most: int) -> str:
    return "".join(c for c in text if "!" <= c <= "~")[:most] or "-"


def syslog(line: bytes, host: str) -> bytes:
    """One message: the whole stored line is its text."""
    facts = chain.read_line(line)
    if facts is None:
        return _message(_WARNING, "-", host, "malformed", "-", line)
    ref = f'[{_SD} ref="{chain.reference(facts.instance, facts.seq)}" hash="{facts.hash}"]'
    return _message(_severity(facts.kind), facts.time, host, facts.kind, ref, line)


def syslog_of_anchor(text: bytes, host: str) -> bytes:
    """An anchor, or the record of a key's change: its text in base64, since it has lines."""
    return _message(_INFO, "-", host, "anchor", "-", base64.b64encode(text))


def _message(severity: int, time: str, host: str, kind: str, data: str, text: bytes) -> bytes:
    where = _printable(host, _MOST_NAME)
    head = f"<{_FACILITY * 8 + severity}>1 {time} {where} bridgehold - {kind[:32]} {data} "
    return head.encode("ascii") + text


def anchor_line(text: bytes) -> bytes:
    """An anchor as a line of JSON beside the others."""
    return msgspec.json.encode({"kind": "anchor", "text": text.decode("ascii")})


def otlp(lines: tuple[bytes, ...], texts: tuple[bytes, ...], host: str) -> bytes:
    """The body of one OTLP/HTTP request in JSON."""
    records = [_record(line) for line in lines] + [
        {
            "severityNumber": 9,
            "body": {"stringValue": text.decode("ascii")},
            "attributes": _attributes(kind="anchor"),
        }
        for text in texts
    ]
    return msgspec.json.encode(
        {
            "resourceLogs": [
                {
                    "resource": {
                        "attributes": [
                            {"key": "service.name", "value": {"stringValue": "bridgehold"}},
                            {"key": "host.name", "value": {"stringValue": host}},
                        ]
                    },
                    "scopeLogs": [{"scope": {"name": "bridgehold.audit"}, "logRecords": records}],
                }
            ]
        }
    )


def _record(line: bytes) -> dict[str, object]:
    facts = chain.read_line(line)
    body = {"stringValue": line.decode("ascii", "replace")}
    if facts is None:
        return {"severityNumber": 13, "body": body, "attributes": _attributes(kind="malformed")}
    warned = _severity(facts.kind) == _WARNING
    return {
        "timeUnixNano": _nanoseconds(facts.time),
        "severityNumber": 13 if warned else 9,
        "severityText": "WARN" if warned else "INFO",
        "eventName": facts.kind,
        "body": body,
        "attributes": _attributes(
            kind=facts.kind, ref=chain.reference(facts.instance, facts.seq), hash=facts.hash
        ),
    }


def _attributes(**named: str) -> list[dict[str, object]]:
    return [{"key": f"bridgehold.{name}", "value": {"stringValue": value}} for name, value in named.items()]


def _nanoseconds(time: str) -> str:
    """Of a time as lines have it; a line is hostile, and may say anything there."""
    try:
        return str(int(datetime.fromisoformat(time).timestamp() * 1000) * 1_000_000)
    except (ValueError, OverflowError):
        return "0"


class _Partial(msgspec.Struct, rename="camel"):
    rejected_log_records: int | str = 0


class _Answer(msgspec.Struct, rename="camel"):
    partial_success: _Partial | None = None


def rejected(answer: bytes) -> int:
    """How many records an OTLP receiver did not take, as it says."""
    try:
        found = msgspec.json.decode(answer, type=_Answer).partial_success
        return int(found.rejected_log_records) if found is not None else 0
    except (msgspec.DecodeError, ValueError):
        return 0


def named_files(lines: tuple[bytes, ...]) -> Iterator[str]:
    """Names of the anchors, and of the key and the records of its changes, that these lines tell of."""
    for line in lines:
        if not any(mark in line for mark in _MARK):
            continue
        facts, told = chain.read_line(line), chain.decode(_ANCHOR, line)
        if facts is None or told is None:
            continue
        if facts.kind == "anchor.signed":
            yield f"{facts.instance}.{told.count}{SUFFIX}"
        elif facts.kind == "anchor.key_rotated":
            with contextlib.suppress(AuditError):
                yield f"{'.'.join(rotations.parse(told.record).ids)}{rotations.SUFFIX}"
            yield PUBLIC_KEY
