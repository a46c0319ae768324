"""``display()`` and its kin, as a notebook's code calls them: shown at once, and kept for the result."""

from __future__ import annotations

import builtins
import contextlib
import functools
import sys
from typing import Any

from python_shown import size_of

from bridgehold_sdk import InvalidInput

MOST_DISPLAYS = 1_000
"""Of one command; those that come after are counted."""
_LONGEST_ID = 100
PLAIN = (str, int, float, bool, list, dict, tuple, set, bytes)
"""What has no form but text."""


class Handle:
    """What ``display(…, display_id=…)`` gives: the place of what is shown, to show something else there."""

    def __init__(self, show: Any, display_id: str) -> None:
        self._show = show
        self.display_id = display_id

    def display(self, value: Any, **more: Any) -> None:
        """Show it once more, under the same name."""
        self._show(value, display_id=self.display_id, **more)

    def update(self, value: Any, **more: Any) -> None:
        """Show `value` in the place of what is there."""
        self._show(value, display_id=self.display_id, update=True, **more)


def _plain(method: Any) -> Any:
    """A function, which `copy.deepcopy` of the builtins leaves as it is; of a method it copies the bridge."""

    @functools.wraps(method)
    def shown(*values: Any, **more: Any) -> Any:
        return method(*values, **more)

    return shown


class Displays:
    """Of a bridge that runs code; begun anew for each command."""

    emit: Any
    result_bytes: int
    interrupted: bool
    _shown: Any

    def _offer(self) -> None:
        """The names that the code has."""
        names = {"display": self._display, "update_display": self._update, "clear_output": self._clear}
        builtins.__dict__.update({name: _plain(method) for name, method in names.items()})

    def _begin_displays(self) -> None:
        self._displays: list[dict[str, Any]] = []
        self._places: dict[str, int] = {}
        self._left_out = self._given_ids = 0
        self._clearing = False
        self._room = self.result_bytes // 2

    def _display(
        self,
        *values: Any,
        raw: bool = False,
        display_id: Any = None,
        update: bool = False,
        clear: bool = False,
        **_: Any,
    ) -> Handle | None:
        """``display(…)`` of the code's."""
        if clear:
            self._clear(wait=True)
        name = self._id(display_id)
        for value in values:
            self._show(value, raw=raw, name=name, update=update)
        return Handle(self._display, name) if name else None

    def _update(self, value: Any, *, display_id: str, **more: Any) -> None:
        """``update_display(…)``: in the place of what that name shows."""
        self._display(value, display_id=display_id, update=True, **more)

    def _clear(self, wait: bool = False) -> None:
        """``clear_output()``: at once, or before the next thing that is shown."""
        if wait:
            self._clearing = True
            return
        self._clearing = False
        self._displays.clear()
        self._places.clear()
        self._tell({"clear": True})

    def _id(self, given: Any) -> str:
        if given is None or given is False:
            return ""
        if given is True:
            self._given_ids += 1
            return f"display-{self._given_ids}"
        if not isinstance(given, str) or not 0 < len(given) <= _LONGEST_ID:
            raise InvalidInput(f"a display's id is text of at most {_LONGEST_ID} characters")
        return given

    def _show(self, value: Any, *, raw: bool, name: str, update: bool) -> None:
        from bridgehold_sdk.forms import bundle_of

        if self._clearing:
            self._clear()
        place = self._places.get(name) if update else None
        if self._room <= 0 or (place is None and len(self._displays) >= MOST_DISPLAYS):
            self._left_out += 1
            return
        if raw:
            forms = bundle_of(value, self._room, self._guard)
        else:
            forms = self._forms(value, self._shown(value).text or "")
        said: dict[str, Any] = {"display": forms} | ({"id": name} if name else {})
        self._room -= size_of(said)
        if place is not None:
            self._displays[place] = forms
        elif not update:
            if name:
                self._places[name] = len(self._displays)
            self._displays.append(forms)
        self._tell(said | ({"update": True} if update else {}))

    def _tell(self, said: dict[str, Any]) -> None:
        """After all that was written before it."""
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        self.emit(said)

    def _forms(self, value: Any, text: str) -> dict[str, Any]:
        if type(value) in PLAIN:
            return {"text/plain": text}
        from bridgehold_sdk.forms import forms_of

        return forms_of(value, text, max(1, self.result_bytes // 8), self._guard)

    def _guard(self, error: BaseException) -> None:
        if self.interrupted:
            raise error

    def _show_figures(self) -> None:
        """matplotlib's open figures, as a notebook shows them at a cell's end."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return
        for number in pyplot.get_fignums():
            self._display(pyplot.figure(number))
        pyplot.close("all")
