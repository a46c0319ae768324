"""What a bridge offers and needs, as its ``bridge.toml`` says it. The host runs no bridge code to know.

`docs/how-to/write-a-bridge.md` explains every key to authors. Reading is `bridges.manifest_file`'s part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from bridgehold.bridges import schema, schema_form
from bridgehold.errors import NotFoundError, UsageError
from bridgehold.policies.model import Needs

if TYPE_CHECKING:
    from pathlib import Path

Effect = Literal["create", "read", "run", "delete", "configure"]
EFFECTS: tuple[Effect, ...] = ("create", "read", "run", "delete", "configure")
Foreign = Literal["", "auto", "json", "msgpack"]
Recovery = Literal["lost", "replay"]

PRELOAD_CALLS = ("openai", "litellm", "dspy", "langchain_openai")
"""The clients that a zygote knows how to call (`sandbox.inner.calls`)."""

JsonSchema = dict[str, object]


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of thing that a command creates in a session: program, model, data set."""

    name: str
    summary: str = ""
    recovery: Recovery = "lost"
    """``lost`` with its worker, or ``replay``: its create and configure commands may be run again."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """What a manifest declares of one operation. The host checks arguments and results by it."""

    name: str
    """Without the bridge's name."""
    summary: str
    effect: Effect
    resource: str = ""
    id_field: str = ""
    """The argument (create: the argument and the result's field) that holds the resource's id."""
    arguments: JsonSchema = {}
    result: JsonSchema = {}
    """For documents and stubs; the host does not check results against it."""
    stream: bool = False
    output: bool = False
    """Its result is an object to which the host adds ``stdout`` and ``stderr``, what the command wrote, and
    ``truncated`` where some of it was cut."""
    input: bool = False
    """Its caller's tool ``stdin`` gives its standard input, also where the policy grants no tool."""
    contents: bool = False
    """Its argument ``base64`` is a file's bytes: the audit has their number and digest alone, and nothing of
    them is taken for a key."""
    timeout_ms: int = 0
    """0: the policy's `limits.command` alone."""
    idempotent: bool = False
    """The same call may be sent again after a crash."""
    replays_calls: bool = False
    """A recovery may run it again although it called a provider or a tool: that costs again."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge.toml as the host uses it: checked, with defaults filled in, hashed as `digest`."""

    name: str
    version: str
    summary: str = ""
    entry: str = ""
    """``module:Class`` in the bridge's folder; empty where `foreign`."""
    foreign: Foreign = ""
    """Its workers run scripts that speak DSPex's or Snakepit's wire: the format that may pass."""
    python: str = ">=3.10"
    requirements: str = ""
    """File with what the author asks for, relative to the folder; empty: the standard library alone."""
    lock: str = ""
    """File with what was resolved, with hashes."""
    preload: tuple[str, ...] = ()
    """Modules to import before the bridge's own code, in this order."""
    preload_calls: tuple[str, ...] = ()
    """Providers' clients that a zygote calls once, against a simulator, before it is forked."""
    resources: dict[str, Resource] = {}
    operations: dict[str, Operation] = {}
    needs: Needs = Needs()
    folder: Path
    """The bridge's own files; mounted read-only as ``/bridge``."""
    digest: str = ""
    """Of ``bridge.toml``'s bytes."""
    release: str = ""
    """Of a bridge that was submitted: which of its releases this is, by the digest of its files."""
    id_names: dict[str, str] = {}
    """Made of `resources`: ``KIND_id`` and ``KIND_ids``, at any depth of arguments, are ids of that kind."""

    def __post_init__(self) -> None:
        names = {f"{kind}_id{many}": kind for kind in self.resources for many in ("", "s")}
        msgspec.structs.force_setattr(self, "id_names", names)

    @property
    def file(self) -> Path:
        """Where it was read."""
        return self.folder / "bridge.toml"

    @property
    def lock_path(self) -> Path | None:
        """The lock's file, or None for a bridge without dependencies."""
        return self.folder / self.lock if self.lock else None

    @property
    def requirements_path(self) -> Path | None:
        """The file that the lock was made from, or None."""
        return self.folder / self.requirements if self.requirements else None

    @property
    def providers(self) -> tuple[str, ...]:
        """Providers it asks for, in the order of the file."""
        return tuple(endpoint.provider for endpoint in self.needs.endpoints)

    def operation(self, name: str) -> Operation:
        """Raises `NotFoundError`."""
        if name not in self.operations:
            raise NotFoundError(
                f"{self.name} has no operation {name[:80]!r}",
                hint=f"It has: {', '.join(self.operations)}.",
                where=str(self.file),
            )
        return self.operations[name]

    def check_arguments(self, operation: str, arguments: dict[str, object]) -> None:
        """Raises `UsageError` that names every place where `arguments` do not fit; never a value."""
        declared = self.operation(operation)
        if found := schema.problems(declared.arguments, arguments):
            raise self.misfit(declared, found)

    def misfit(self, operation: Operation, problems: list[str]) -> UsageError:
        """What a caller is told of arguments with `problems`."""
        required = operation.arguments.get("required", [])
        properties = operation.arguments.get("properties", {})
        names = list(properties) if isinstance(properties, dict) else []
        return UsageError(
            "; ".join(problems),
            hint=f"{self.name}:{operation.name} takes {_list(names)}; required: {_list(required)}.",
            where=f"{self.name}:{operation.name}",
        )


COMMON_TAKES = schema_form.named({"properties": {"worker_id": {"type": "string", "maxLength": 200}}})
"""What a ``common:`` operation takes, which no manifest declares."""


def common_misfit(operation: str, problems: list[str]) -> UsageError:
    """As `Manifest.misfit`, of a ``common:`` operation."""
    return UsageError(
        "; ".join(problems), hint="common:ping takes worker_id.", where=f"common:{operation[:80]}"
    )


def _list(names: object) -> str:
    return ", ".join(str(name) for name in names) if isinstance(names, list) and names else "nothing"
