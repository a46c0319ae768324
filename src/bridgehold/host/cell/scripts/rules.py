"""The rules for a user script's session: which script, which command, whose key.

The script is the tenant's own and speaks DSPex's or Snakepit's wire; its commands are not declared
anywhere, so that the policy's `[operations]` is all that can be asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from bridgehold.audit.arguments import Arguments, shown, split_in_turns
from bridgehold.bridges.legacy.bodies import FORMATS, Format
from bridgehold.bridges.legacy.messages import Negotiation, Request, request_steps
from bridgehold.bridges.manifest import Foreign
from bridgehold.errors import ConfigError, DeniedError, UsageError
from bridgehold.host.front.boots import SCRIPT_PLACEHOLDER, Script
from bridgehold.ids import is_operation
from bridgehold.policies.decide import decide_operation
from bridgehold.policies.model import Decision, Grant
from bridgehold.sandbox.spec import script_places
from bridgehold.steps import in_turns

Kind = Literal["script", "code", "module", "stdin"]
PLAIN = "python"
"""As which operation a policy sees ``python -c``, ``-m`` and code on standard input."""
MAX_TEXT = 256 * 1024
"""Of a script's code on the command line and its arguments together."""


class DecidedCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A command that came, what was decided about it, and its arguments without any key."""

    request: Request
    decision: Decision
    arguments: Arguments

    @property
    def operation(self) -> str:
        """The command's name, as policies see it."""
        return self.request.command


async def decide_frame(body: bytes, grant: Grant, formats: tuple[Format, ...]) -> DecidedCommand | None:
    """One frame of the caller's; None: it negotiates the format, and no policy speaks of that.

    Raises `ProtocolError` where it is no frame, `UsageError` where it is in another format. The loop goes
    on with its other work meanwhile.
    """
    request = await in_turns(request_steps(body))
    if isinstance(request, Negotiation):
        return None
    if request.format not in formats:
        raise UsageError(
            f"this profile takes no {request.format}",
            hint='`foreign = "auto"` in its bridge.toml takes both.',
        )
    arguments = await split_in_turns(request.args, plain=False)
    return DecidedCommand(request=request, decision=_decide(request, arguments, grant), arguments=arguments)


def _decide(request: Request, arguments: Arguments, grant: Grant) -> Decision:
    if not is_operation(request.command):
        return Decision(
            allowed=False, rule="default-deny", reason=f"{request.command[:80]!r} is not a command's name"
        )
    decision = decide_operation(grant, grant.bridge, request.command)
    if decision.allowed and arguments.keys and grant.inline_keys == "refuse":
        return key_refused(arguments, grant, "the policy refuses keys in arguments")
    return decision


def key_refused(arguments: Arguments, grant: Grant, why: str) -> Decision:
    """Of a command whose arguments hold a key that does not go on (pure)."""
    return Decision(
        allowed=False,
        rule="inline_keys",
        reason=f"the argument {shown(arguments.keys[0][0])} holds a key, and {why}: leave it out or send "
        f"{SCRIPT_PLACEHOLDER!r}, and the gateway puts the tenant's own key in",
        source=str(grant.sources.get("inline_keys", "")),
    )


def decide_plain(script: Script, grant: Grant) -> tuple[Decision, dict[str, object]]:
    """A run without a protocol is one command of the name `python`, from its start to its end."""
    told: dict[str, object] = {"kind": script.kind, "text": script.text, "args": list(script.args)}
    return decide_operation(grant, grant.bridge, PLAIN), told


def formats_of(foreign: Foreign) -> tuple[Format, ...]:
    """What a profile's ``foreign`` lets through."""
    return tuple(name for name in FORMATS if foreign in ("auto", name))


def script_inside(
    kind: Kind, text: str, args: Iterable[str], path: Iterable[str], *, scripts: tuple[str, ...], bridge: str
) -> Script:
    """The script as the sandbox sees it: below one of its folders. Raises `DeniedError`, `ConfigError`."""
    if not scripts:
        raise ConfigError(
            f"{bridge} is a foreign bridge whose scripts are nowhere",
            where="config.toml",
            hint=f'Name it: [bridges.{bridge}] scripts = "/srv/app/python", and `bridgehold reload`.',
        )
    given = tuple(args)
    if len(text) + sum(map(len, given)) > MAX_TEXT or len(given) > 256:
        raise UsageError("the script's arguments are too long")
    inside = text
    if kind == "script":
        found = _inside(text, scripts)
        if found is None:
            raise DeniedError(
                f"the script is not below {bridge}'s folder of scripts",
                where=f"[bridges.{bridge}] scripts",
                hint="An operator names the folders whose scripts this profile may run, and reloads.",
            )
        inside = found
    further = (_inside(folder, scripts) for folder in path)
    return Script(
        kind=kind,
        text=inside,
        args=given,
        path=tuple(folder for folder in further if folder is not None),
        protocol=kind == "script",
    )


def _inside(path: str, scripts: tuple[str, ...]) -> str | None:
    """``/bridge/…`` for a path below the first of `scripts`, ``/scripts/1/…`` below the next; or None."""
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts:
        return None
    for folder, place in zip(scripts, script_places(len(scripts)), strict=True):
        if pure.is_relative_to(folder):
            return str(PurePosixPath(place) / pure.relative_to(folder))
    return None
