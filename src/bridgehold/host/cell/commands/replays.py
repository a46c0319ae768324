"""Replay log (pure): the commands that rebuild a lost session's resources, in order.

Only commands that went well, of resources that their bridge declares with ``recovery = "replay"``. A
command that called a provider or a tool costs again, and may say something else the second time: it is
run again only where its manifest says so (``replays_calls``). Where one can't be run again, none is: half
a session is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bridgehold.bridges.manifest import Manifest, Operation
from bridgehold.host.cell.commands.resources import resource_id

MOST_STEPS = 256
MOST_BYTES = 1024 * 1024
"""Of one session's arguments, as JSON."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One command that went well, and may be run again."""

    command: str
    """The id it had then: what the audit of its repetition names."""
    operation: str
    """``bridge:operation``."""
    arguments: dict[str, object]
    kind: str = ""
    id: str = ""
    """Of the resource that it made, where it made one."""
    size_bytes: int = 0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One session's steps. `spoiled` says why they will not be run again; empty: they may be."""

    steps: tuple[Step, ...] = ()
    spoiled: str = ""

    @property
    def size_bytes(self) -> int:
        """What the record's arguments take, encoded."""
        return sum(step.size_bytes for step in self.steps)


class CompletedCommand(msgspec.Struct, frozen=True, kw_only=True):
    """One command that went well, as the host saw it."""

    command: str
    bridge: str
    arguments: dict[str, object]
    result: object
    had_key: bool
    """A key was taken out of its arguments; it is kept nowhere."""
    called_out: bool
    """The worker asked the gateway or a tool for something meanwhile."""


def constructive(manifest: Manifest, operation: Operation) -> bool:
    """Whether a command of `operation` makes what a lost session would be missed for."""
    if operation.effect in ("create", "delete"):
        return manifest.resources[operation.resource].recovery == "replay"
    if operation.effect != "configure":
        return False
    if operation.resource:
        return manifest.resources[operation.resource].recovery == "replay"
    return any(resource.recovery == "replay" for resource in manifest.resources.values())


def noted(record: Record, manifest: Manifest, operation: Operation, completed: CompletedCommand) -> Record:
    """`record` with what has happened."""
    if record.spoiled or not constructive(manifest, operation):
        return record
    name = f"{completed.bridge}:{operation.name}"
    if completed.had_key:
        return Record(spoiled=f"{name} was given a key, which is not kept")
    if completed.called_out and not operation.replays_calls:
        return Record(spoiled=f"{name} called a provider or a tool, and would again")
    found = resource_id(operation, completed.arguments, completed.result)
    if operation.effect == "create" and not found:
        return Record(spoiled=f"{name} made something without an id")
    step = Step(
        command=completed.command,
        operation=name,
        arguments=completed.arguments,
        kind=operation.resource,
        id=found if operation.effect == "create" else "",
        size_bytes=len(msgspec.json.encode(completed.arguments)),
    )
    if operation.effect == "delete":
        steps = _without(record.steps, operation.resource, found)
        steps = (*record.steps, step) if steps is None else steps
    else:
        steps = (*record.steps, step)
    if len(steps) > MOST_STEPS or sum(one.size_bytes for one in steps) > MOST_BYTES:
        return Record(spoiled=f"it took more than {MOST_STEPS} commands or {MOST_BYTES} bytes to make")
    return Record(steps=steps)


def _without(steps: tuple[Step, ...], kind: str, name: str) -> tuple[Step, ...] | None:
    """`steps` without the one that made what is deleted; None where a later one may rest on it."""
    for place in reversed(range(len(steps))):
        if (steps[place].kind, steps[place].id) == (kind, name):
            rest = steps[place + 1 :]
            return None if any(_mentions(step.arguments, name) for step in rest) else (*steps[:place], *rest)
    return steps


def _mentions(value: object, name: str) -> bool:
    """Whether the string `name` is anywhere in `value`, by itself."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one == name:
            return True
        if isinstance(one, Mapping):
            waiting.extend(one.keys())
            waiting.extend(one.values())
        elif isinstance(one, list | tuple):
            waiting.extend(one)
    return False
