"""Which variables an operator may set inside a bridge's sandbox (pure)."""

from __future__ import annotations

import re

from bridgehold.audit.key_shapes import find_shape

MOST_CHARACTERS = 4_096
_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,99}", re.ASCII)


def check_variable(name: str, value: str) -> None:
    """Raises `ValueError` that says why `name` may not be set, or not to this; never the value."""
    from bridgehold.policies.values import directs_programs  # few processes need it
    from bridgehold_sdk.secret_names import is_secret  # likewise

    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r}: a variable is capitals, digits and '_'; at most 100")
    if directs_programs(name):
        raise ValueError(f"{name}: the sandbox's own, or one that changes how programs are loaded")
    if is_secret(name, value) or find_shape(value):
        raise ValueError(f"{name}: a key doesn't go inside; keep it with `bridgehold secrets set`")
    if len(value) > MOST_CHARACTERS or not value.isprintable():
        raise ValueError(f"{name}: at most {MOST_CHARACTERS} printable characters")
