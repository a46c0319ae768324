"""What came of an act: from its own word, from how it ended, and from what was seen outside. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from bridgehold.faces.attack.acts import Act
from bridgehold.sandbox.doctor.model import Check

Came = Literal["held", "NOT HELD", "not tried"]
_LONGEST = 300


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How an act ended, as its caller saw it: by a value, or by an error's code."""

    value: object = None
    code: str = ""
    message: str = ""
    event: str = ""
    """Its outcome's in the audit, or the refusal's."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the report."""

    name: str
    barrier: str
    rows: tuple[int, ...]
    tried: str
    success: str
    came: Came
    inside: str
    outside: tuple[str, ...]
    """What was looked at, and what was seen."""
    event: str = ""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One look from outside. `broken`: the barrier did not hold; None: it could not be told."""

    what: str
    broken: bool | None


def judge(act: Act, ended: Ended, seen: tuple[Seen, ...]) -> Outcome:
    """Held where neither inside nor outside says otherwise, and both could be told."""
    broke, inside = _inside(act, ended)
    told = [broke, *(one.broken for one in seen)]
    came: Came = "NOT HELD" if True in told else "not tried" if None in told else "held"
    return Outcome(
        name=act.name,
        barrier=act.barrier,
        rows=act.rows,
        tried=act.tries,
        success=act.success,
        came=came,
        inside=inside[:_LONGEST],
        outside=tuple(one.what[:_LONGEST] for one in seen),
        event=ended.event,
    )


def judge_check(act: Act, check: Check) -> Outcome:
    """Of an act that the doctor tries: a caution says that the machine lacks what could be tried."""
    broken = {"PASS": False, "FAIL": True, "CAUTION": None}[check.status]
    outcome = judge(act, Ended(value=[False, "no guest's to try"]), (Seen(what=check.detail, broken=broken),))
    return msgspec.structs.replace(outcome, inside=f"bridgehold doctor: {check.status}")


def _inside(act: Act, ended: Ended) -> tuple[bool | None, str]:
    if ended.code:
        said = f"ended: {ended.code}: {ended.message}"
        return (False if ended.code in act.ends else None), said
    match ended.value:
        case [bool(broke), str(said)]:
            return broke, said
        case other:
            return None, f"no answer that can be read: {str(other)[:100]}"
