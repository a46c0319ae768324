"""What a tool is, whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from bridgehold.bridges.frames import ToolFact
from bridgehold.bridges.schema_form import Schema, closed, named, schema_problems, size
from bridgehold.errors import UsageError
from bridgehold.host.shares.session_events import SessionEvents
from bridgehold.ids import is_operation
from bridgehold.policies.model import Grant
from bridgehold.protocol.frames import OfferedTool

How = Literal["caller", "http", "process", "host"]
MOST_TOOLS = 64
"""That one command may be offered."""
_MOST_VALUES = 10_000
"""In the schemas of all of them."""
_DESCRIPTION = 4_000
_LONGEST_MS = 600_000


class ToolSpec(OfferedTool, frozen=True, kw_only=True):
    """One tool with its bounds.

    Its `parameters` are checked before the tool sees anything (a name that isn't declared is refused:
    `takes`), its `result` before the bridge sees anything.
    """

    timeout_ms: int = 30_000
    how: How = "caller"

    @property
    def fact(self) -> ToolFact:
        """What the bridge is told."""
        return ToolFact(name=self.name, description=self.description, parameters=self.takes)

    @property
    def takes(self) -> Schema:
        """The schema of the arguments, with what it leaves unsaid: nothing declared, nothing taken."""
        return closed(named(self.parameters))


class ToolContext(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf a tool is called: never the host's. Beside the arguments, never among them."""

    tenant: str
    principal: str
    session: str
    command: str

    @property
    def ties(self) -> dict[str, str]:
        """What ties an audit event to it."""
        return msgspec.structs.asdict(self)


class ToolMeans(msgspec.Struct, frozen=True):
    """Under which grant a tool is called, and where its session's events go: for what costs something."""

    grant: Grant
    events: SessionEvents


class ToolSource(Protocol):
    """Runs tools of one kind. Raises `BridgeholdError`; the caller bounds the time by cancelling."""

    async def call(
        self, tool: ToolSpec, arguments: dict[str, object], context: ToolContext, means: ToolMeans
    ) -> object:
        """Run `tool`; its result as plain JSON values. Raises `BridgeholdError`."""


Offered = Mapping[str, tuple[ToolSpec, ToolSource]]


def check_tools(tools: tuple[ToolSpec, ...]) -> None:
    """`UsageError` for tools that a command can't be offered (pure)."""
    if len(tools) > MOST_TOOLS:
        raise UsageError(f"{len(tools)} tools; a command may be offered {MOST_TOOLS}", where="tools")
    seen: set[str] = set()
    left = _MOST_VALUES
    for tool in tools:
        left -= size(tool.parameters, left) + size(tool.result, left)
        if left < 0:
            raise UsageError(
                f"the tools' schemas have more than {_MOST_VALUES} values together", where="tools"
            )
        if not is_operation(tool.name):
            hint = "Lower-case letters, digits and underscores, a letter first."
            raise UsageError(f"{tool.name[:80]!r} is no name of a tool", where="tools", hint=hint)
        if tool.name in seen:
            raise UsageError(f"two tools are named {tool.name!r}", where="tools")
        seen.add(tool.name)
        wrong = [
            *schema_problems(tool.parameters, f"{tool.name}.parameters"),
            *schema_problems(tool.result, f"{tool.name}.result"),
        ]
        if wrong:
            raise UsageError("; ".join(wrong[:3]), where="tools")
        if len(tool.description) > _DESCRIPTION or not 1 <= tool.timeout_ms <= _LONGEST_MS:
            raise UsageError(
                f"{tool.name}: a description has at most {_DESCRIPTION} characters, a time 1 ms to 10 min",
                where="tools",
            )
