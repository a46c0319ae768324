"""Limits that a caller asks for, for its session alone: at most what the policy gives (pure)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bridgehold.errors import DeniedError, UsageError
from bridgehold.ids import decimal_number, nearest
from bridgehold.policies.limits_table import LIMITS, show
from bridgehold.policies.model import Grant
from bridgehold.policies.values import read_value
from bridgehold.policies.vocabulary import VOCABULARY

ASKABLE = ("memory", "cpu", "session", "idle")
"""Keys of ``[limits]`` that a caller may ask less of."""
TIMES = ("session", "idle")
"""Of those, what may be prolonged while the session lives."""
_FACTS = {fact.key: fact for fact in LIMITS if fact.key in ASKABLE}
_KEYS = {key.path: key for key in VOCABULARY}


class LimitsRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits by field of `Limits`; 0: the policy's."""

    memory_bytes: int = 0
    cpu_millis: int = 0
    session_ms: int = 0
    idle_ms: int = 0

    @property
    def sized(self) -> bool:
        """Whether its sandbox is another one than the policy's."""
        return bool(self.memory_bytes or self.cpu_millis)


NOTHING = LimitsRequest()


def read_asked(given: Mapping[str, object], keys: tuple[str, ...] = ASKABLE) -> LimitsRequest:
    """``{"memory": "256MiB", "cpu": 0.5}``, values as a policy has them. Raises `UsageError` with the key."""
    found: dict[str, object] = {}
    for name, value in given.items():
        if name not in keys:
            raise UsageError(
                f"{name[:40]!r} is no limit that may be asked for{nearest(name, keys)}",
                where="limits",
                hint=f"There are {', '.join(keys)}.",
            )
        fact = _FACTS[name]
        try:
            said = decimal_number(value) if fact.unit == "cores" and isinstance(value, str) else value
            found[fact.field] = read_value(_KEYS[f"limits.{name}"], said)
        except ValueError as error:
            raise UsageError(str(error), where=f"limits.{name}") from None
    return msgspec.convert(found, type=LimitsRequest)


def narrowed(grant: Grant, asked: LimitsRequest, needs: Mapping[str, int]) -> Grant:
    """`grant` with the limits that were asked for. `needs`: least ones of its bridge, by field.

    Its digest stays that of what the policy gives: less is no other grant. Raises `DeniedError` with the key.
    """
    changes: dict[str, int] = {}
    for fact in _FACTS.values():
        value, most = getattr(asked, fact.field), getattr(grant.limits, fact.field)
        least = needs.get(fact.field, 0)
        if not value:
            continue
        if value > most:
            raise beyond(grant, fact.key, value)
        if value < least:
            raise DeniedError(
                f"limits.{fact.key}: {show(fact.unit, value)} was asked for; {grant.bridge} needs "
                f"{show(fact.unit, least)}",
                where=f"limits.{fact.key}",
                hint="Ask for more, or leave it out.",
            )
        changes[fact.field] = value
    return msgspec.structs.replace(grant, limits=msgspec.structs.replace(grant.limits, **changes))


def beyond(grant: Grant, key: str, value: int) -> DeniedError:
    """That `value` was asked for, which is more than the policy gives."""
    fact = _FACTS[key]
    source = grant.sources.get(f"limits.{key}")
    return DeniedError(
        f"limits.{key}: {show(fact.unit, value)} was asked for; the policy gives at most "
        f"{show(fact.unit, getattr(grant.limits, fact.field))}",
        where=str(source) if source is not None else f"limits.{key}",
        hint=f"Ask for no more than that, or have an operator raise `[limits] {key}`.",
    )
