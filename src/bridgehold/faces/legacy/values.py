"""How a worker ended, as its caller sees it; and the file that describes a shim."""

from __future__ import annotations

import msgspec


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the worker ended: its exit status, and what stderr should say."""

    status: int = 0
    message: str = ""


class ShimFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``bridgehold.json`` of a shim: under which profile, for whom, and where the host is."""

    profile: str
    tenant: str
    config: str
    state: str
    run: str
