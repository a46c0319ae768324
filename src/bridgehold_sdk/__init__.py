"""Bridgehold's guest side: what a bridge is written with, and what runs it inside the sandbox.

Standard library only, Python 3.10 and up. It is mounted read-only into every sandbox and guards
nothing: what a bridge may do is decided outside.
"""

from __future__ import annotations

from bridgehold_sdk.bridge import Bridge, Limits, Operation, Provider, Session, Tool, operation
from bridgehold_sdk.errors import (
    Cancelled,
    InvalidInput,
    NotPlain,
    ProviderNotGranted,
    ResourceNotFound,
    ResultTooLarge,
    ToolError,
)
from bridgehold_sdk.preload import after_fork, preloaded
from bridgehold_sdk.store import Store

__version__ = "0.1.0"

__all__ = [
    "Bridge",
    "Cancelled",
    "InvalidInput",
    "Limits",
    "NotPlain",
    "Operation",
    "Provider",
    "ProviderNotGranted",
    "ResourceNotFound",
    "ResultTooLarge",
    "Session",
    "Store",
    "Tool",
    "ToolError",
    "after_fork",
    "operation",
    "preloaded",
]
