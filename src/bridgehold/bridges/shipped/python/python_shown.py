"""Values as a caller is shown them: text that is cut in the middle, within the bounds of an answer."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from bridgehold_sdk.plain import clean_text

REPR_CHARACTERS = 16 * 1024


class Shown(NamedTuple):
    """A value as the caller gets it: nothing of it, where there is none."""

    kind: str | None = None
    text: str | None = None
    plain: Any = None
    cut: bool = False


def shortened(value: object) -> tuple[str, bool]:
    """Its `repr`, and whether that was cut. Of plain text and lists no more is written out than is shown."""
    size = len(value) if type(value) in (str, bytes, bytearray, list, tuple) else 0  # type: ignore[arg-type]  # those have one
    part = value[:REPR_CHARACTERS] if size > REPR_CHARACTERS else value  # type: ignore[index]  # as above
    text = clean_text(repr(part))
    rest = max(0, len(text) - REPR_CHARACTERS)
    if part is value and not rest:
        return text, False
    left = f"{rest} characters" if part is value else f"{size - REPR_CHARACTERS} and more of {size}"
    return text[:REPR_CHARACTERS] + f"… {left} cut …", True


def fitted(said: dict[str, Any], most: int) -> dict[str, Any]:
    """`said`, within `most` bytes: the value goes first, then the middle of its `repr`."""
    if size_of(said) <= most:
        return said
    said = {**said, "value": None, "truncated": True}
    text = said["repr"]
    while text and size_of(text) > most // 4:
        keep = max(0, len(text) // 4 - 20)
        text = f"{text[:keep]}\n… {len(text) - 2 * keep} characters cut …\n{text[len(text) - keep :]}"
        if not keep:
            break
    return {**said, "repr": text}


def size_of(value: object) -> int:
    """Bytes of it as JSON."""
    return len(json.dumps(value, ensure_ascii=False).encode())
