"""Questions to the audit, by callers of the host."""

from __future__ import annotations

from typing import Annotated

import msgspec

Reference = Annotated[str, msgspec.Meta(max_length=80)]
MOST_EVENTS = 500
"""Of one answer."""


class AuditQueryParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `audit.query`. Unknown fields are refused."""

    question: Annotated[str, msgspec.Meta(max_length=4_096)] = ""
    """In the language of `bridgehold audit query`; empty: everything."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_EVENTS)] = 100
    """The newest so many, or those next to `before` or `after`."""
    before: Reference = ""
    """An event: only older ones."""
    after: Reference = ""
    """An event: only younger ones, the oldest of them."""
