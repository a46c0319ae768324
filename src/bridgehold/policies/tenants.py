"""A tenant as a value: state and ceilings, as the table ``[tenant]`` of ``tenants/NAME.toml`` says (pure).

The rest of that file is the ceiling over policies (`compose`). Who has no file, or none with this table, is
a tenant without ceilings of its own. `bridgehold tenant` rewrites this table alone, and nothing beside it;
`tenant remove` takes it away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import msgspec

from bridgehold import reads
from bridgehold.errors import PolicyError, SuspendedError, UsageError
from bridgehold.ids import decimal_number, nearest, whole_number
from bridgehold.policies.changes import Capability, Changes
from bridgehold.policies.model import Ceilings, Decision
from bridgehold.policies.problems import Faulty, policy_error
from bridgehold.policies.tables import Table, rendered
from bridgehold.policies.units import exact_size
from bridgehold.policies.values import MILLION, read_value
from bridgehold.policies.vocabulary import Key

State = Literal["active", "suspended", "revoked"]
STATES: tuple[str, ...] = get_args(State)
TABLE = "tenant"
_LIMITS = "limits"

KEYS: tuple[Key, ...] = (
    Key("sessions", "count", "Sessions at once, with whatever bridges."),
    Key("bridge_sessions", "count", "Sessions at once with any one bridge."),
    Key("memory", "size", "Memory of its sessions together, by their caps.", least=1 << 20),
    Key(
        "cpu_share",
        "count",
        "Its weight on the processors beside the other tenants, who have 100.",
        least=1,
        most=10_000,
    ),
    Key(
        "commands_per_second",
        "count",
        "Commands in a second, with whatever bridges; so many at once.",
        least=1,
    ),
    Key(
        "bytes_per_second",
        "size",
        "Bytes of arguments and results in a second; past it the next command is refused.",
        least=1,
    ),
    Key("artifacts", "size", "Bytes of artifacts and downloads that are kept."),
    Key("environments", "size", "Bytes of the environments of bridges of its own."),
    Key("submissions", "count", "Bridges that it has submitted and that wait for an operator."),
    Key("submitted", "size", "Bytes of these bridges together."),
    Key(
        "journal",
        "size",
        "Bytes of the audit, of each life of the host; past it sessions end.",
        least=1 << 16,
    ),
    Key("requests_per_day", "count", "Requests to providers in a day (UTC)."),
    Key("requests_per_month", "count", "Requests to providers in a month (UTC)."),
    Key("tokens_per_day", "count", "Tokens at providers in a day (UTC), requests under way included."),
    Key("tokens_per_month", "count", "Tokens at providers in a month (UTC), likewise."),
    Key("money_per_day", "money", "Tokens at their providers' prices in a day (UTC), likewise."),
    Key("money_per_month", "money", "Tokens at their providers' prices in a month (UTC), likewise."),
)
_NUMBERS: dict[str, Callable[[str], int | float]] = {"count": whole_number, "money": decimal_number}
_BY_NAME = {key.path: key for key in KEYS}
_WRITTEN = "Such as requests_per_day=2000, memory=2GiB, money_per_day=2.5; KEY=none takes a ceiling away."


def shown(limits: Ceilings) -> dict[str, str | int | float]:
    """As the file has them: counts and amounts as numbers, sizes with their unit."""
    said = {key: getattr(limits, key.path) for key in KEYS}
    return {key.path: _shown(key, value) for key, value in said.items() if value is not None}


def _shown(key: Key, value: int) -> str | int | float:
    if key.kind == "money":
        return value / MILLION if value % MILLION else value // MILLION
    return exact_size(value) if key.kind == "size" else value


def amount(name: str, value: int) -> int | float:
    """What `value` of the ceiling `name` is, in the file's unit."""
    return value / MILLION if _BY_NAME[name].kind == "money" else value


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant as its file says it now."""

    name: str
    state: State = "active"
    reason: str = ""
    """Why it is in that state, in the operator's words; its callers are told."""
    by: str = ""
    """The principal that changed it last; empty where somebody wrote the file by hand."""
    at: str = ""
    """When, in UTC."""
    limits: Ceilings = Ceilings()
    declared: bool = False
    """Whether there is such a table at all."""
    source: str = ""
    """``file:line`` of it."""

    @property
    def decision(self) -> Decision:
        """Whether anything may begin for it."""
        if self.state == "active":
            return Decision(allowed=True, rule="tenant.state", reason="active", source=self.source)
        since = f" since {self.at}" if self.at else ""
        why = f": {self.reason}" if self.reason else ""
        return Decision(
            allowed=False,
            rule="tenant.state",
            reason=f"tenant {self.name} is {self.state}{since}{why}",
            source=self.source,
        )

    def demand(self) -> None:
        """Raise `SuspendedError` unless it is active."""
        decision = self.decision
        if not decision.allowed:
            raise suspended(decision)


def in_state_of(tenant: Tenant, other: Tenant) -> Tenant:
    """`tenant` with its own ceilings, in `other`'s state."""
    state, reason, by, at = other.state, other.reason, other.by, other.at
    declared = other.declared
    return msgspec.structs.replace(tenant, state=state, reason=reason, by=by, at=at, declared=declared)


def suspended(decision: Decision) -> SuspendedError:
    """The refusal that `Tenant.decision` is."""
    return SuspendedError(decision.reason, where=decision.source)


def parse(name: str, text: str, file: str) -> Tenant:
    """The tenant as `text` says it. Raises `PolicyError` with every fault, its line and the nearest key."""
    try:
        table = Table(text, file, TABLE)
        inner = Table(text, file, f"{TABLE}.{_LIMITS}")
        table.inner(_LIMITS)
        state = table.choice("state", STATES, "active")
        found = {key.path: inner.typed(key) for key in KEYS}
        tenant = Tenant(
            name=name,
            state=msgspec.convert(state, State),
            reason=table.text("reason"),
            by=table.text("by"),
            at=table.text("at"),
            limits=msgspec.convert(found, Ceilings),
            declared=table.there,
            source=str(table.source),
        )
        if (table.there or TABLE in text) and not _separable(text):
            table.fault("", _INSEPARABLE)
        table.done(inner)
    except Faulty as faulty:
        raise policy_error(faulty.problems, hint="`bridgehold tenant limit --help` lists the keys.") from None
    return tenant


def limited(limits: Ceilings, changes: Mapping[str, str | float | None]) -> Ceilings:
    """`limits` with `changes`: by key a value as the file has it, None takes the ceiling away.

    Raises `UsageError` for an unknown key or a value out of range.
    """
    found: dict[str, object] = {}
    faults: list[str] = []
    for name, value in changes.items():
        key = _BY_NAME.get(name)
        if key is None:
            faults.append(f"{name[:80]}: unknown key{nearest(name, _BY_NAME)}")
            continue
        try:
            found[name] = None if value is None else read_value(key, _number(key, value))
        except ValueError as error:
            faults.append(f"{name}: {error}")
    if faults:
        known = changes.keys() <= _BY_NAME.keys()
        hint = _WRITTEN if known else f"Ceilings are: {', '.join(_BY_NAME)}."
        raise UsageError("\n".join(faults), hint=hint)
    return msgspec.structs.replace(limits, **found)


def compare_limits(before: Ceilings, after: Ceilings) -> Changes:
    """From one tenant's ceilings to others: those that are higher, or taken away, are gained."""
    gained, lost = list[Capability](), list[Capability]()
    for key in KEYS:
        old, new = getattr(before, key.path), getattr(after, key.path)
        if old == new:
            continue
        words = ["any" if one is None else str(_shown(key, one)) for one in (old, new)]
        one = Capability(key=f"{TABLE}.{_LIMITS}.{key.path}", value=" → ".join(words))
        (gained if new is None or (old is not None and new > old) else lost).append(one)
    return Changes(gained=tuple(gained), lost=tuple(lost))


def _number(key: Key, value: str | float) -> str | float:
    """A number may come as text. Raises `ValueError`."""
    if key.kind not in _NUMBERS or not isinstance(value, str):
        return value
    return _NUMBERS[key.kind](value)


_INSEPARABLE = (
    "the table [tenant] can't be told from what stands around it: write it as a table of its own, [tenant], "
    "with [tenant.limits] below it, and no line of a list or text that looks so"
)
_HEADER = re.compile(r"[ \t]*\[\[?[ \t]*([A-Za-z0-9_\"'-]+)")


def rewritten(text: str, tenant: Tenant, file: str) -> str:
    """`text` with its table ``[tenant]`` saying what `tenant` is, at the end; all else as it was.

    Raises `PolicyError` where that can't be done without touching something else.
    """
    before = _cut(text)
    facts = {"state": tenant.state, "reason": tenant.reason, "by": tenant.by, "at": tenant.at}
    new = (f"{before}\n\n" if before.strip() else "") + rendered(TABLE, facts)
    if tenant.limits != Ceilings():
        new += rendered(f"{TABLE}.{_LIMITS}", shown(tenant.limits))
    if beside(text) != beside(new) or parse(tenant.name, new, file).limits != tenant.limits:
        raise _entangled(file)
    return new


def without(name: str, text: str, file: str) -> str:
    """`text` without its table ``[tenant]``, all else as it was; empty: nothing else is said there.

    Raises `PolicyError` as `rewritten`.
    """
    others = beside(text)
    if not others:
        return ""
    new = _cut(text) + "\n"
    if others != beside(new) or parse(name, new, file).declared:
        raise _entangled(file)
    return new


def _separable(text: str) -> bool:
    """Whether what `_cut` leaves is all but the table."""
    try:
        return reads.load_toml(_cut(text)) == beside(text)
    except ValueError:
        return False


def _cut(text: str) -> str:
    """`text` without its table, as far as lines tell; what is left may be no TOML."""
    kept: list[str] = []
    ours = False
    for line in text.splitlines(keepends=True):
        header = _HEADER.match(line)
        ours = header[1].strip("\"'") == TABLE if header else ours
        if not ours:
            kept.append(line)
    return "".join(kept).rstrip("\r\n")


def _entangled(file: str) -> PolicyError:
    return PolicyError(_INSEPARABLE, where=file, hint="Mend it by hand, and try again.")


def beside(text: str) -> dict[str, object]:
    """All that isn't the tenant's own table. Raises `PolicyError`."""
    try:
        data = reads.load_toml(text)
    except ValueError as error:
        raise PolicyError(f"not TOML: {error}") from None
    return {key: value for key, value in data.items() if key != TABLE}
