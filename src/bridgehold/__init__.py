"""Bridgehold: a sandboxed execution host for ML-framework bridges.

``from bridgehold import Host, connect`` gives the Python interface; everything heavy is imported
only when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridgehold.client.client import Client, Host, connect
    from bridgehold.client.sync import SyncClient
    from bridgehold.client.tools import Tool
    from bridgehold.errors import BridgeholdError

__all__ = ["BridgeholdError", "Client", "Host", "SyncClient", "Tool", "connect"]

_LAZY = {
    "BridgeholdError": "bridgehold.errors",
    "Client": "bridgehold.client.client",
    "Host": "bridgehold.client.client",
    "connect": "bridgehold.client.client",
    "SyncClient": "bridgehold.client.sync",
    "Tool": "bridgehold.client.tools",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'bridgehold' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
