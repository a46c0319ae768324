"""The commands of DSPex and Snakepit in our words (pure): which operation, with which arguments."""

from __future__ import annotations

from typing import Literal

import msgspec

from bridgehold.errors import BridgeholdError

Own = Literal["ping", "fresh", "clean_session", "shutdown"]
"""What the face does itself: answer, begin a new session, delete one caller's programs, end."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one command: an operation of the host, or something of the face's own."""

    operation: str = ""
    arguments: dict[str, object] = {}
    own: Own | None = None


_OWN: dict[str, Own] = {
    "ping": "ping",
    "cleanup": "fresh",
    "reset_state": "fresh",
    "clear_session": "fresh",
    "cleanup_session": "clean_session",
    "shutdown": "shutdown",
}
_COMMON = {
    "get_stats": "common:get_stats",
    "get_capabilities": "common:get_capabilities",
    "health": "common:health",
}
_RENAMED = {"get_program": "get_program_info"}


def translate(bridge: str, command: str, args: dict[str, object]) -> Step:
    """`command` as DSPex's and Snakepit's callers name it, for sessions with `bridge`."""
    plain = "shutdown" if command == "common:shutdown" else command
    own = _OWN.get(plain)
    if own is not None:
        return Step(own=own, arguments=args)
    if plain in _COMMON:
        return Step(operation=_COMMON[plain])
    if ":" in plain:
        return Step(operation=plain, arguments=args)
    kept = args
    if plain == "execute_program":
        kept = {key: value for key, value in args.items() if key != "program_data"}
    return Step(operation=f"{bridge}:{_RENAMED.get(plain, plain)}", arguments=kept)


def recreation(bridge: str, args: dict[str, object]) -> Step | None:
    """How to make the program that an ``execute_program`` brings with it as `program_data`, if it does.

    DSPex keeps programs on its own side and puts them back, so that any worker can run them.
    """
    data = args.get("program_data")
    if not isinstance(data, dict) or "signature" not in data:
        return None
    made: dict[str, object] = {"id": args.get("program_id"), "signature": data["signature"]}
    made |= {key: data[key] for key in ("program_type", "instructions") if isinstance(data.get(key), str)}
    return Step(operation=f"{bridge}:create_program", arguments=made)


def error_text(error: BridgeholdError) -> str:
    """The one string that their answers have for an error: our code, message and hint."""
    hint = f" ({error.hint})" if error.hint else ""
    event = f" [event {error.event}]" if error.event and error.event not in hint else ""
    return f"{error.code}: {error.message}{hint}{event}"
