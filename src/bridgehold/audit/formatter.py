"""An event and its envelope to one ASCII JSON object, by python-json-logger's formatter.

The formatter only formats: the record's fields are ours and fixed, the message is a constant, and
what can't be written exactly (floats, large integers, unknown types) raises instead of vanishing.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import msgspec
from pythonjsonlogger.msgspec import MsgspecFormatter

from bridgehold.audit.chain import MAX_INTEGER, VERSION
from bridgehold.audit.events import Event, kind_of
from bridgehold.audit.key_shapes import find_shape, mask_shapes
from bridgehold.errors import AuditError

_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]")
_DEPTH = 24


class _Record(logging.LogRecord):
    """The few attributes that a formatter reads; a full record costs as much as the hash."""

    def __init__(self, fields: dict[str, object]) -> None:
        self.msg = ""
        self.args = None
        self.exc_info = None
        self.exc_text = None
        self.stack_info = None
        self.fields = fields


class EventFormatter(MsgspecFormatter):
    """Formats `_Record` values; every key of the line comes from `fields`, in their order."""

    def __init__(self) -> None:
        super().__init__(json_default=_refuse)

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Put the event's fields, and nothing else of `record`, into the line."""
        log_data.update(record.__dict__["fields"])

    def line(
        self, event: Event, *, instance: str, seq: int, time: str, mono_ns: int, boot: str, prev: str
    ) -> bytes:
        """The object's bytes: printable ASCII, one line, `prev` last. Raises `AuditError`.

        Secrets of a well-known shape are masked here too, whatever field they came in by.
        """
        own = {name: getattr(event, name) for name in event.__struct_fields__}
        check(own)
        fields: dict[str, object] = {
            "v": VERSION,
            "instance": instance,
            "seq": seq,
            "time": time,
            "mono_ns": mono_ns,
            "boot": boot,
            "kind": kind_of(event),
            **own,
            "prev": prev,
        }
        text = self._text(fields)
        if find_shape(text):
            masked = mask_strings(own)
            assert isinstance(masked, dict)  # noqa: S101 - a dict is masked to a dict
            text = self._text({**fields, **masked})
        if not text.isascii() or "\x7f" in text:
            text = _NOT_PRINTABLE.sub(_escape, text)
        return text.encode("ascii")

    def _text(self, fields: dict[str, object]) -> str:
        try:
            return self.format(_Record(fields))
        except (UnicodeEncodeError, TypeError, ValueError, RecursionError) as error:
            raise AuditError(
                f"an event can't be written as one line: {type(error).__name__}",
                hint="Events hold text, integers, booleans, and lists and tables of these.",
            ) from error


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no place in an event")


def check(value: object, depth: int = 0) -> None:
    """Raise `AuditError` for a float, an integer of 2^53 or more, or a key that isn't plain ASCII."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if -MAX_INTEGER <= value <= MAX_INTEGER:  # type: ignore[operator]  # it is an int here
            return
        raise AuditError("an event holds an integer of 2^53 or more", hint="Write it as text.")
    if depth > _DEPTH:
        raise AuditError(f"an event is nested deeper than {_DEPTH}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or _NOT_PRINTABLE.search(key):
                raise AuditError("an event holds a key that isn't printable ASCII")
            check(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check(item, depth + 1)
    elif isinstance(value, msgspec.Struct):
        check(msgspec.structs.asdict(value), depth + 1)
    else:
        raise AuditError(f"an event holds a {kind.__name__}", hint="Events hold integers, never floats.")


def mask_strings(value: object) -> object:
    """`value` with secrets of a well-known shape masked in every string of it."""
    if isinstance(value, str):
        return mask_shapes(value)
    if isinstance(value, dict):
        return {key: mask_strings(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask_strings(item) for item in value]
    return value


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
