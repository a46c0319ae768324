"""What a bridge may raise or meet. Each names the `code` that its fault carries to the host."""

from __future__ import annotations


class InvalidInput(ValueError):  # noqa: N818 - named for what the author says by raising it
    """An argument is wrong. Reaches the caller as ``invalid_input``."""


class ResourceNotFound(LookupError):  # noqa: N818 - named for what the author says by raising it
    """No resource of this kind has this id in the session. Reaches the caller as ``not_found``."""

    def __init__(self, kind: str, resource_id: str) -> None:
        super().__init__(f"no {kind} with id {str(resource_id)[:200]!r} in this session")
        self.kind = kind
        self.resource_id = resource_id


class ProviderNotGranted(LookupError):  # noqa: N818 - named for what the author meets
    """The session has no such provider: the policy grants none of that name."""

    def __init__(self, name: str, granted: list[str]) -> None:
        known = ", ".join(sorted(granted)) or "none"
        super().__init__(f"provider {name[:100]!r} is not granted to this session (granted: {known})")
        self.name = name


class ToolError(RuntimeError):
    """A tool call failed. `code` says how: ``denied``, ``usage``, ``timeout``, ``application``, …"""

    def __init__(self, tool: str, code: str, message: str) -> None:
        super().__init__(f"tool {str(tool)[:100]!r}: {message}")
        self.tool = tool
        self.code = code


class NotPlain(TypeError):  # noqa: N818 - named for what the author meets
    """A result holds what the wire can't carry. The message says where, and what to return instead."""


class ResultTooLarge(ValueError):  # noqa: N818 - named for what the author meets
    """A result is larger than the policy's `limits.response`. Reaches the caller as ``limit``."""


class Cancelled(KeyboardInterrupt):
    """The caller cancelled the command.

    Raised on the main thread, wherever it is; a `KeyboardInterrupt`, because frameworks and asyncio
    clean up and let that one through. Code that swallows it is killed after the grace.
    """


class UnknownCommand(LookupError):  # noqa: N818 - reads as what it is in a fault's `type`
    """The host named an operation that this bridge does not have."""


class WireError(Exception):
    """The host sent what is no frame. The worker ends."""
