"""The commands of DSPex and Snakepit in our words (pure): which operation, with which arguments."""

from __future__ import annotations

from typing import Literal

import msgspec

from bridgehold.errors import BridgeholdError
from bridgehold.host.front.boots import SCRIPT_PLACEHOLDER

Own = Literal["ping", "fresh", "clean_session", "session_data", "shutdown"]
"""What the face does itself: answer, begin a new session, forget what one of the caller's own sessions
made, keep its data, end."""


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
_OF_ANY_SESSION = {"configure_lm", "list_programs", "get_program", "get_program_info", "delete_program"}
"""Callers say which of their sessions it is for; one session here holds them all."""
_UNREAD = {"use_dynamic_signature", "auto_bind_common"}
_UNSET = {"variable_aware", "variable_bindings"}
"""LimitsRequest for only where they hold something; then the bridge says that it has none."""
_FIELD = {"name", "type", "description", "choices"}
_SPELLED = {"list[typing.Any]": "list", "dict[str, typing.Any]": "dict"}
"""A type as an answer spells it, and callers keep it, by the name that it was asked for with."""


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
    if plain in ("get_session_data", "update_session_data") and "session_id" in args:
        return Step(own="session_data", arguments=args)
    kept = args
    if plain == "execute_program":
        kept = {key: value for key, value in args.items() if key != "program_data"}
    elif plain in _OF_ANY_SESSION:
        kept = {key: value for key, value in args.items() if key != "session_id"}
    if plain == "configure_lm" and bridge == "dspy":
        kept = _for_dspy(kept)
    if plain == "create_program" and bridge == "enhanced":
        kept = {**kept, "signature": _signature_text(kept.get("signature"))}
    if plain == "create_program" and bridge == "dspy":
        kept = _program(kept)
    renamed = _RENAMED.get(plain, plain) if bridge == "dspy" else plain
    return Step(operation=f"{bridge}:{renamed}", arguments=kept)


def _for_dspy(args: dict[str, object]) -> dict[str, object]:
    """DSPex's name for the provider is google, also where none is said and the model is a Gemini.

    The placeholder of `bridgehold shim` is no key here: each session has one of its own.
    """
    args = {key: value for key, value in args.items() if value != SCRIPT_PLACEHOLDER}
    provider, model = args.get("provider"), args.get("model")
    unsaid = provider is None and isinstance(model, str) and model.startswith("gemini-")
    return {**args, "provider": "gemini"} if unsaid or provider == "google" else args


def _program(args: dict[str, object]) -> dict[str, object]:
    """Without what DSPex sends for its own bridge's sake, and its bridge does not read."""
    kept = {key: value for key, value in args.items() if key not in _UNREAD and (value or key not in _UNSET)}
    signature = kept.get("signature")
    if isinstance(signature, dict):
        told = {**signature, "description": signature.get("description") or signature.get("instructions")}
        read = {key: told[key] for key in ("name", "description") if told.get(key)}
        sides = {side: _fields(signature.get(side)) for side in ("inputs", "outputs")}
        kept["signature"] = {**read, **sides}
    return kept


def _fields(fields: object) -> object:
    if not isinstance(fields, list):
        return fields
    return [
        {key: _SPELLED.get(str(value), value) for key, value in field.items() if key in _FIELD and value}
        if isinstance(field, dict)
        else field
        for field in fields
    ]


def _signature_text(signature: object) -> object:
    """``inputs -> outputs`` of the structure that callers send for it."""
    if not isinstance(signature, dict):
        return signature
    sides = []
    for side in ("inputs", "outputs"):
        fields = signature.get(side)
        names = [field.get("name") if isinstance(field, dict) else field for field in fields or ()]
        sides.append(", ".join(map(str, names)))
    return " -> ".join(sides)


def fresh_answer(command: str, *, programs: int, commands: int, errors: int) -> dict[str, object]:
    """What a worker that has forgotten everything says, in the words of each command for it."""
    if command == "reset_state":
        counted = {"programs_cleared": programs, "commands_reset": commands, "errors_reset": errors}
        return {"status": "reset", **counted}
    if command == "clear_session":
        return {"status": "ok", "message": "Session cleared", "programs_removed": programs}
    return {"status": "cleaned", "programs_removed": programs}


def recreation(bridge: str, args: dict[str, object]) -> Step | None:
    """How to make the program that an ``execute_program`` brings with it as `program_data`, if it does.

    DSPex keeps programs on its own side and puts them back, so that any worker can run them.
    """
    data = args.get("program_data")
    if not isinstance(data, dict):
        return None
    signature = data.get("signature_def") or data.get("signature")
    if not signature:
        return None
    made: dict[str, object] = {"id": args.get("program_id"), "signature": signature}
    made |= {key: data[key] for key in ("program_type", "instructions") if isinstance(data.get(key), str)}
    return translate(bridge, "create_program", made)


def error_text(error: BridgeholdError) -> str:
    """The one string that their answers have for an error: our code, message and hint."""
    hint = f" ({error.hint})" if error.hint else ""
    event = f" [event {error.event}]" if error.event and error.event not in hint else ""
    return f"{error.code}: {error.message}{hint}{event}"
