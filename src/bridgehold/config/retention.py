"""``[retention]``: how much of the audit keeps its bodies."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from bridgehold.config.kinds import Size, Strict
from bridgehold.policies.units import parse_size


class RetentionSection(Strict, frozen=True):
    """``[retention]``: old segments are sealed by themselves and lose bodies, as by ``audit seal --drop``."""

    days: Annotated[int, Meta(ge=0, le=36_500)] = 0
    """What is older than so many days loses its bodies; 0: nothing for its age."""
    size: Size = "0B"
    """Beyond so much in all the oldest segments lose theirs; 0: nothing for its size."""
    least_days: Annotated[int, Meta(ge=0, le=36_500)] = 7
    """What is younger keeps them whatever the size: else a tenant could write until what it did is gone."""
    every_s: Annotated[int, Meta(ge=1, le=86_400)] = 3_600
    """How often it is looked at, in seconds."""

    @property
    def bytes(self) -> int:
        """`size`, as a number."""
        return parse_size(self.size)

    @property
    def wanted(self) -> bool:
        """Whether anything is dropped by itself."""
        return bool(self.days or self.bytes)
