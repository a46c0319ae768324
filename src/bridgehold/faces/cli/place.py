"""Options that say where code runs: variables, folder, namespace, and limits of a session's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from bridgehold.errors import UsageError
from bridgehold.policies.units import parse_duration

Env = Annotated[
    list[str] | None, typer.Option("--env", help="A variable: NAME=VALUE, or NAME as it is here.")
]
Cwd = Annotated[str, typer.Option("--cwd", help="The working folder inside.")]
Context = Annotated[str, typer.Option("--context", help="Which of the session's namespaces.")]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        help="Less than the policy's: time=5s of the command; memory=256MiB, cpu=0.5, session=10m, idle=1m "
        "of its session.",
    ),
]
_TIME = "time"


def variables(given: Sequence[str] | None) -> dict[str, str]:
    """Of ``--env``. Raises `UsageError` for a name that is not here."""
    found = {}
    for one in given or ():
        name, equals, value = one.partition("=")
        if not equals and name not in os.environ:
            raise UsageError(f"there is no variable {name[:80]} here", where="--env")
        found[name] = value if equals else os.environ[name]
    return found


def limits(given: Sequence[str] | None) -> tuple[int, dict[str, str]]:
    """Of ``--limit``: the command's deadline in milliseconds (0: the policy's), and its session's own."""
    deadline, found = 0, {}
    for one in given or ():
        name, _, value = one.partition("=")
        if not name or not value:
            raise UsageError(
                f"{one[:80]!r} is no limit", where="--limit", hint="Write time=5s, memory=256MiB, …"
            )
        if name != _TIME:
            found[name] = value
            continue
        try:
            deadline = parse_duration(value)
        except ValueError as error:
            raise UsageError(f"--limit: {error}") from error
    return deadline, found


def placed(env: Sequence[str] | None, cwd: str, context: str = "") -> dict[str, Any]:
    """Those of a command's arguments that say where it runs."""
    found = {"env": variables(env), "cwd": cwd, "context": context}
    return {name: value for name, value in found.items() if value}
