"""`bridgehold shell --terminal`: a program in a sandbox, at this terminal.

The sandbox has a terminal of its own; keys go in as they are typed, and what comes out is written here as far
as it draws. What would make this terminal answer, tell, copy or change for good is left out.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from bridgehold.errors import UsageError
from bridgehold.faces.cli.attached import Input, Written, read_word, running_host
from bridgehold.faces.cli.run import build_bars
from bridgehold.faces.screen import err
from bridgehold.protocol.values import ProcessFact

DEFAULT = ("sh", "-c", "command -v bash > /dev/null && exec bash -i; exec sh -i")
_TOOL = {
    "name": "stdin",
    "description": "What is typed, and the terminal's size.",
    "parameters": {"type": "object", "properties": {"signals": {"type": "boolean"}}},
}
_AFTER = (
    b"\x1b[?1047l\x1b[?2004l\x1b[?1000;1002;1003;1006l\x1b[?1l\x1b>\x1b[4;20l\x1b[?6l\x1b[?7h\x1b[?25h"
    b"\x1b(B\x0f\x1b7\x1b[r\x1b8\x1b[0m\x1b[0 q\r\n"
)
"""What a program may have left on, off again."""
_MODES = frozenset([1, 6, 7, 12, 25, 47, 1000, 1002, 1003, 1006, 1047, 1048, 1049, 2004])
_PLAIN_MODES = frozenset([4, 20])
"""Not 2, which locks the keyboard, and not 12, by which a terminal echoes itself."""
_DRAWS = frozenset(b"@ABCDEFGHIJKLMPSTXZ`adefhlmrsu")
_ATTACHED_MS = 10_000
"""Of one command; well below what a policy gives one."""
_SEQUENCE = re.compile(
    rb"\x1b(?:"
    rb"\[(?P<private>[<=>?]?)(?P<numbers>[0-9;:]{0,64})(?P<middle>[ -/]{0,4})(?P<final>[@-~])"
    rb"|[()*+][0AB12]"
    rb"|[78=>DEHMNOZc](?P<escape>)"
    rb")"
)
_PREFIX = re.compile(rb"\x1b(?:\[[<=>?]?[0-9;:]{0,64}[ -/]{0,4}|[()*+])?\Z")
_STRING = re.compile(rb"\x1b[P\]X^_]")
_STRING_END = re.compile(rb"\x07|\x1b\\|\x18|\x1a")
_CONTROLS = re.compile("[\x00-\x06\x10-\x1a\x1c-\x1f\x7f-\x9f]")


class Drawn:
    """Passes on of a program's bytes what a terminal draws; sequences may come in parts."""

    def __init__(self) -> None:
        self._held = b""
        self._in_string = False

    def __call__(self, data: bytes) -> bytes:
        """What of `data`, and of what came before it, may be written now."""
        data, self._held = self._held + data, b""
        out, at = bytearray(), 0
        while at < len(data):
            if self._in_string:
                end = _STRING_END.search(data, at)
                if end is None:
                    self._held = data[-1:] if data.endswith(b"\x1b") else b""
                    break
                self._in_string, at = False, end.end()
                continue
            escape = data.find(b"\x1b", at)
            out += self._plain(data[at : escape if escape >= 0 else None], last=escape < 0)
            if escape < 0:
                break
            at = escape
            if _PREFIX.match(data, at):
                self._held = data[at:]
                break
            found = _SEQUENCE.match(data, at)
            if found is not None:
                out += found[0] if _draws(found) else b""
                at = found.end()
            elif _STRING.match(data, at):
                self._in_string, at = True, at + 2
            else:
                at += 1  # its rest is shown as text
        return bytes(out)

    def _plain(self, data: bytes, *, last: bool) -> bytes:
        """Text without C1 controls, which some terminals act on; what is no text is spelled out."""
        if last:
            cut = _unfinished(data)
            data, self._held = data[: len(data) - cut], data[len(data) - cut :]
        return _CONTROLS.sub("", data.decode("utf-8", "backslashreplace")).encode()


def _unfinished(data: bytes) -> int:
    """How many bytes at the end begin a character that isn't whole yet."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if 0xC0 <= byte < 0xF8:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < needed else 0
        if byte & 0xC0 != 0x80:
            return 0
    return 0


def _draws(found: re.Match[bytes]) -> bool:
    """Whether it draws, and no more: none that a terminal answers, and no mode but those known."""
    final = found["final"]
    if final is None:
        return found["escape"] is None or found[0] not in (b"\x1bH", b"\x1bZ", b"\x1bc")
    if final in b"hl" and found["private"] in (b"?", b""):
        known = _MODES if found["private"] else _PLAIN_MODES
        numbers = found["numbers"].split(b";")
        return not found["middle"] and all(one.isdigit() and int(one) in known for one in numbers)
    if found["private"] or found["middle"] not in (b"", b" "):
        return False
    if found["middle"] == b" ":
        return final == b"q"  # the cursor's shape
    return final[0] in _DRAWS


class _Attached(ProcessFact, frozen=True, kw_only=True):
    next: int = 0
    """The offset at which its output goes on."""


class _Keys(Input):
    """Keys as they are typed, and the terminal's size once it has another."""

    heard = signal.SIGWINCH

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._awake()

    def _said(self) -> dict[str, Any]:
        return _size()


def _size() -> dict[str, int]:
    columns, rows = os.get_terminal_size(0)
    return {"rows": min(max(rows, 1), 1000), "columns": min(max(columns, 1), 1000)}


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """This terminal passes every key on as it is, for the block."""
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.write(1, _AFTER)
        termios.tcsetattr(0, termios.TCSAFLUSH, before)


def run_terminal(
    bridge: str, tenant: str, argv: Sequence[str], limits: dict[str, str], where: dict[str, Any]
) -> int:
    """Run `argv` in a sandbox of these limits at this terminal; its exit status. `where`: `env`, `cwd`."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "standard input and output are no terminal",
            where="--terminal",
            hint="For a program's streams: session.command, or `bridgehold run python:command`.",
        )
    with running_host() as host:
        with build_bars() as built:
            params = {"bridge": bridge, "tenant": tenant, "progress": True}
            session = host.hold(params | ({"limits": limits} if limits else {}), built)
        err.say((f"session {session}; it ends with the program", "dim"))

        def request(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
            named = {"operation": f"{bridge}:{operation}", "arguments": arguments}
            return {**named, "session": session, "tenant": tenant}

        what = {"argv": list(argv or DEFAULT), "terminal": _size(), **where}
        fact = read_word(host.request("run", request("process_start", what))["value"], _Attached)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_raw())
            written = stack.enter_context(Written(Drawn()))
            keys = stack.enter_context(_Keys(host, written, empty=False))
            while fact.running:
                asked = request(
                    "process_attach", {"process": fact.process, "offset": fact.next, "wait_ms": _ATTACHED_MS}
                )
                said = host.request("run", {**asked, "stream": True, "tools": [_TOOL]}, keys)["value"]
                fact = read_word(said, _Attached)
        return fact.status or 0
