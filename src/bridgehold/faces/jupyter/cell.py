"""What one cell says, on its way to the front end: bounded, whatever the sandbox sends."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from bridgehold.errors import BridgeholdError
from bridgehold.faces.jupyter.forms import bundle, size_of, visible

MOST_TEXT = 8 * 1024 * 1024
"""Characters of a cell's two streams; the first ones."""
MOST_SHOWN = 1_000
"""Displays of a cell."""
MOST_CHANGED = 10_000
"""Of what it has shown: in its place, or taken away."""
ROOM = {"display_data": 128 * 1024 * 1024, "update_display_data": 512 * 1024 * 1024}
"""Characters of both, as a page gets them: it keeps all displays, and of a place the newest."""
_MOST_NAME = 200
_MOST_PROMPT = 4_096
_RAISED = re.compile(r"([A-Za-z_][\w.]*)(?:: (.*))?", re.DOTALL)

Publish = Callable[[str, dict[str, Any]], None]


class Cell:
    """Takes the events of `execute` and publishes them: streams, pictures, result, error."""

    def __init__(self, publish: Publish, *, trusted: bool) -> None:
        self._publish = publish
        self._trusted = trusted
        self._room = MOST_TEXT
        self._shown = self._changed = 0
        self._left = dict(ROOM)
        self._end = ""
        self._prompt = ""

    def event(self, event: dict[str, Any]) -> None:
        """One event of the command's; what is none of ours is left out."""
        kind, data = event.get("type"), event.get("data")
        if kind == "output":
            if isinstance(event.get("cut"), int) and event["cut"] > 0:
                self._stream("stderr", f"\n[{event['cut']} bytes are left out here]\n")
            self._stream(event.get("stream"), visible(event.get("text")))
        elif kind == "chunk" and isinstance(data, dict) and "display" in data:
            self._display(data["display"], data.get("id"), update=data.get("update") is True)
        elif kind == "chunk" and isinstance(data, dict) and data.get("clear") is True:
            self._changed += 1
            if self._changed <= MOST_CHANGED:
                self._publish("clear_output", {"wait": False})

    def _stream(self, name: object, text: str) -> None:
        if name == "stdout" and self._prompt and self._prompt in text:
            text, self._prompt = text.replace(self._prompt, "", 1), ""
        if name not in ("stdout", "stderr") or not text or self._room <= 0:
            return
        if name == "stdout":
            self._end = (self._end + text)[-_MOST_PROMPT:]
        self._publish("stream", {"name": name, "text": text[: self._room]})
        self._room -= len(text)
        if self._room <= 0:
            self.note(f"[the rest of its output is left out: it has more than {MOST_TEXT} characters]")

    def _display(self, forms: object, name: object, *, update: bool) -> None:
        """`name`: of its place in the page; with `update` what stands there is replaced."""
        known = isinstance(name, str) and 0 < len(name) <= _MOST_NAME
        place = {"display_id": visible(name)} if known else {}
        if update:
            self._changed += 1
            if known and self._changed <= MOST_CHANGED:
                self._show("update_display_data", forms, place)
            return
        self._shown += 1
        if self._shown == MOST_SHOWN + 1:
            self.note(f"[what else this cell shows is left out: it shows more than {MOST_SHOWN}]")
        if self._shown <= MOST_SHOWN:
            self._show("display_data", forms, place)

    def _show(self, kind: str, forms: object, place: dict[str, str]) -> None:
        data = bundle(forms, trusted=self._trusted) if self._left[kind] > 0 else {}
        if not data:
            return
        self._left[kind] -= size_of(data)
        if self._left[kind] > 0:
            self._publish(kind, {"data": data, "metadata": {}, "transient": place})
        else:
            self.note(f"[what else this cell shows is left out: it has more than {ROOM[kind] >> 20} MiB]")

    def asked(self, prompt: str) -> str:
        """The prompt to ask with. The code has printed it, too: it is shown once, whichever comes first."""
        prompt = prompt[-_MOST_PROMPT:]
        if self._end.endswith(prompt):
            return ""
        self._prompt = prompt
        return prompt

    def note(self, text: str) -> None:
        """A line of the kernel's own, after the cell's."""
        self._publish("stream", {"name": "stderr", "text": f"\n{text}\n"})

    def result(self, said: object) -> dict[str, Any]:
        """The value's forms; none, where there is no value."""
        left = said.get("displays_left_out") if isinstance(said, dict) else None
        if isinstance(left, int) and left > 0:
            self.note(f"[{left} more that this cell shows are left out]")
        if not isinstance(said, dict) or not isinstance(said.get("repr"), str):
            return {}
        forms = bundle(said.get("forms"), trusted=self._trusted)
        return {**forms, "text/plain": visible(said["repr"])}


def told(error: BridgeholdError) -> dict[str, Any]:
    """An error as a front end shows it: of the code's own, or of the host's with its remedy."""
    if error.code == "application" and (found := _RAISED.fullmatch(error.message)):
        name, value = found[1][:_MOST_NAME], found[2] or ""
        lines = visible(error.traceback or error.message).splitlines()
    else:
        name, value = type(error).__name__, error.message
        lines = [visible(f"{name}: {value}"), *([visible(error.hint)] if error.hint else [])]
    return {"ename": name, "evalue": visible(value), "traceback": lines}


INTERRUPTED = {"ename": "KeyboardInterrupt", "evalue": "", "traceback": ["KeyboardInterrupt"]}
