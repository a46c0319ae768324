"""What an editor asks of the session's names: how one goes on, and what it is."""

from __future__ import annotations

import builtins
import contextlib
from typing import Any

from python_place import MAIN
from python_shown import REPR_CHARACTERS

from bridgehold_sdk import operation
from bridgehold_sdk.plain import clean_text

MOST_MATCHES = 1_000


class Names:
    """``complete`` and ``inspect``, of a bridge that has a namespace."""

    callers_code: Any
    _shown: Any
    _namespace: Any
    _go_to: Any

    @operation(effect="read", resource="namespace")
    def complete(self, code: str, cursor: int = -1, context: str = MAIN) -> dict[str, Any]:
        """What the name before the cursor may become."""
        import rlcompleter

        self._go_to(context)
        end = len(code) if cursor < 0 else min(cursor, len(code))
        start = end
        while start and (code[start - 1].isalnum() or code[start - 1] in "_."):
            start -= 1
        completer, found = rlcompleter.Completer(self._namespace), []
        with self.callers_code():
            for number in range(MOST_MATCHES):
                match = completer.complete(code[start:end], number) if code[start:end] else None
                if match is None:
                    break
                found.append(clean_text(match.rstrip("()\t ")))
        return {"matches": sorted(set(found)), "start": start, "end": end}

    @operation(effect="read", resource="namespace")
    def inspect(self, code: str, cursor: int = -1, context: str = MAIN) -> dict[str, Any]:
        """What the name at the cursor is: its kind, signature, documentation and text."""
        import inspect
        import re

        self._go_to(context)
        at = len(code) if cursor < 0 else min(cursor, len(code))
        name = next((one[0] for one in re.finditer(r"[\w.]+", code) if one.start() <= at <= one.end()), "")
        first, *rest = name.strip(".").split(".")
        if first not in self._namespace and not hasattr(builtins, first):
            return {"found": False}
        with self.callers_code():
            value = self._namespace[first] if first in self._namespace else getattr(builtins, first)
            for part in rest:
                if not hasattr(value, part):
                    return {"found": False}
                value = getattr(value, part)
            shown = self._shown(value)
            said = {"found": True, "name": name, "type": shown.kind, "repr": (shown.text or "None")[:2000]}
            with contextlib.suppress(TypeError, ValueError):
                said["signature"] = clean_text(str(inspect.signature(value)))[:2000]
            said["documentation"] = clean_text(inspect.getdoc(value) or "")[:REPR_CHARACTERS]
        return said
