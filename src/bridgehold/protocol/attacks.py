"""What an operator's `bridgehold attack` tells the host, for the audit."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Name = Annotated[str, msgspec.Meta(max_length=80)]


class AttackParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `attack.told`."""

    phase: Literal["begins", "ends"]
    bridge: Name
    tenant: Name
    grant: Name
    """The grant's digest."""
    counts: dict[Annotated[str, msgspec.Meta(max_length=20)], Annotated[int, msgspec.Meta(ge=0)]]
    """Acts that there are, or by what came of them."""
