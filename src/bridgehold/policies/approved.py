"""Rules that a person approved for a tenant's bridge, beside its policy: by whom, until when, signed (pure).

``policies/BRIDGE@TENANT.approved.toml`` holds them; each is signed by who owns the configuration.

[rules.p-0123456789ab]
event = "i-0123456789ab.12"                       # the refusal that was asked about
asked_by = "alice"
approved_by = "bob"
approved = "2026-11-30T12:00:00Z"
expires = "2026-12-07T12:00:00Z"
seen = "sha256:…"                                 # what the approver was shown
signature = "…"
[rules.p-0123456789ab.grants.operations]
allow = ["dspy:predict"]
[ended]                                           # before their time: the supervisor keeps them until then
p-ba9876543210 = "2026-12-08T12:00:00Z"

They add to what the policy says until they expire, and lie below the tenant's ceiling as all of it does. What
none can say, whoever signed it, is refused here: patterns, secrets, devices, folders, metadata services, and
weakenings other than `NAMEABLE`.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from bridgehold import signatures
from bridgehold.errors import DeniedError
from bridgehold.ids import nearest, whole_number
from bridgehold.policies.addresses import why_not_public
from bridgehold.policies.compose import built
from bridgehold.policies.load import Draft, parse, parse_table, read_toml
from bridgehold.policies.locate import locate
from bridgehold.policies.model import Connect, Endpoint, Grant, Policy, Rules, Source, Weakening
from bridgehold.policies.names import normalise_host
from bridgehold.policies.problems import Faulty, Problem, policy_error
from bridgehold.policies.tables import LONGEST_TEXT, parse_time, rendered

NAMEABLE: tuple[Weakening, ...] = ("connect", "private_network")
"""Weakenings that may come with an approved rule, where whoever asks names them."""
MOST_RULES = 50
"""Of one tenant's bridge at once."""
SKEW_S = 300.0
"""What is signed is used at once: so far its time may be from now."""
SUFFIX = ".approved"
PREFIX = b"bridgehold-approval-v1\n"
"""Of every text that is signed here, and of none elsewhere."""
_ID = re.compile(r"p-[0-9a-z]{12}")
_KEYS = re.compile(
    r"(operations|tools|resources)\.allow|network\.endpoints\.[^.]+\.(methods|paths)|network\.connect|weakenings"
)
_TABLES = re.compile(r"operations|tools|resources|network(\.endpoints(\.[^.]+)?)?")
_METADATA = frozenset({"metadata", "metadata.google.internal", "instance-data", "metadata.goog"})
_NO_ID = "p-000000000000"
_BY_HAND = "Write it into the policy by hand: `bridgehold policy diff --policy FILE` shows what it changes."
_FIELDS = ("event", "asked_by", "approved_by", "approved", "expires", "seen", "signature")
T = TypeVar("T")
Verified = Callable[[bytes, bytes], bool]
"""Whether these 64 bytes are the approvals' key's signature of that text."""
Grants = Mapping[str, tuple[str, ...]]
"""Dotted key of a policy to what is added there; a tunnel is ``HOST:PORT``, or that and `` private``."""


class Approved(msgspec.Struct, frozen=True, kw_only=True):
    """One rule. Times are seconds of the epoch."""

    id: str
    event: str
    asked_by: str
    approved_by: str
    approved: str
    expires: str
    seen: str
    grants: dict[str, tuple[str, ...]]
    signature: str = ""
    adds: Policy = Policy(name="")
    """What `grants` say, with the line of each."""

    @property
    def until(self) -> int:
        """When it ends, in seconds of the epoch."""
        return int(parse_time(self.expires))

    def text(self, bridge: str, tenant: str) -> bytes:
        """What is signed: all of it, and for whom."""
        said = {name: getattr(self, name) for name in ("id", *_FIELDS[:-1], "grants")}
        whole = {**said, "bridge": bridge, "tenant": tenant}
        return PREFIX + msgspec.json.encode(whole, order="deterministic")


def read_rules(
    bridge: str, tenant: str, text: str, file: str, verified: Verified | None
) -> tuple[Approved, ...]:
    """The rules of a file. `verified` None: nobody here knows the key, and signatures are not looked at.

    Raises `PolicyError` with every fault; a rule that isn't soundly signed is one.
    """
    try:
        data, lines = read_toml(text, file), locate(text)
    except Faulty as faulty:
        raise policy_error(faulty.problems) from None
    reader = _Reader(file, lines)
    found = tuple(reader.rules(data))
    if not reader.problems and verified is not None:
        reader.problems += [
            Problem(reader.source(one.id), one.id, "its signature is not this host's, or not of what it says")
            for one in found
            if not _is_signed(one, bridge, tenant, verified)
        ]
    found = tuple(one for one in found if one.id not in reader.ended)
    if reader.problems:
        hint = "`bridgehold proposals approve` writes this file: remove a rule that was changed by hand."
        raise policy_error(reader.problems, hint=hint)
    return found


def read_ended(text: str, file: str, now: float) -> dict[str, str]:
    """Rules that were ended before their time, and when that would have been. Raises `PolicyError`."""
    try:
        data, lines = read_toml(text, file), locate(text)
    except Faulty as faulty:
        raise policy_error(faulty.problems) from None
    reader = _Reader(file, lines)
    tuple(reader.rules(data))
    return {name: until for name, until in reader.ended.items() if parse_time(until) > now}


def _is_signed(one: Approved, bridge: str, tenant: str, verified: Verified) -> bool:
    try:
        return verified(base64.b64decode(one.signature, validate=True), one.text(bridge, tenant))
    except (binascii.Error, ValueError):
        return False


class _Reader:
    def __init__(self, file: str, lines: dict[str, int]) -> None:
        self._file, self._lines = file, lines
        self.problems: list[Problem] = []
        self.ended: dict[str, str] = {}

    def source(self, name: str) -> Source:
        """Where the rule stands."""
        return Source(self._file, self._lines.get(f"rules.{name}", 0))

    def rules(self, data: dict[str, object]) -> Iterable[Approved]:
        tables = data.pop("rules", {})
        self._read_ended(data.pop("ended", {}))
        if data or not isinstance(tables, dict) or len(tables) > MOST_RULES:
            message = f"at most {MOST_RULES} tables [rules.ID] are expected, and nothing else"
            self.problems.append(Problem(Source(self._file), "", message))
            return
        for name, table in tables.items():
            if not _ID.fullmatch(name) or not isinstance(table, dict):
                self.problems.append(Problem(self.source(name[:40]), f"rules.{name[:40]}", "no rule's id"))
            elif (one := self._rule(name, table)) is not None:
                yield one

    def _read_ended(self, table: object) -> None:
        if not isinstance(table, dict):
            table = {"": ""}
        for name, until in table.items():
            try:
                parse_time(until if _ID.fullmatch(name) else "")
            except ValueError as error:
                self.problems.append(Problem(Source(self._file), f"ended.{name[:40]}", str(error)))
            else:
                self.ended[name] = until

    def _rule(self, name: str, table: dict[str, object]) -> Approved | None:
        known = len(self.problems)
        grants = table.pop("grants", {})
        for key in table.keys() - set(_FIELDS):
            self._fault(name, key[:40], f"unknown key{nearest(key, _FIELDS)}")
        fields = {}
        for key in _FIELDS:
            value = table.get(key)
            if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= LONGEST_TEXT:
                self._fault(name, key, "a text of one line is expected")
            else:
                fields[key] = value
        for key in ("approved", "expires"):
            try:
                parse_time(fields.get(key, ""))
            except ValueError as error:
                self._fault(name, key, str(error))
        if not isinstance(grants, dict) or not grants:
            self._fault(name, "grants", "it grants nothing")
            return None
        try:
            draft = parse_table(grants, self._file, self._lines, below=f"rules.{name}.grants")
        except Faulty as faulty:
            self.problems += faulty.problems
            return None
        self.problems += [Problem(source, key, why) for key, source, why in _improper(draft)]
        if len(self.problems) > known:
            return None
        return Approved(id=name, **fields, grants=_flat(draft), adds=built(name, [draft]))

    def _fault(self, name: str, key: str, message: str) -> None:
        self.problems.append(Problem(self.source(name), f"rules.{name}.{key}", message))


def checked(grants: Grants) -> tuple[dict[str, tuple[str, ...]], Policy]:
    """`grants` in the form that is signed, and what they add. Raises `DeniedError` for what no rule says."""
    try:
        text = written(_NO_ID, {}, grants)
        draft = parse(text, "the rule", below=f"rules.{_NO_ID}.grants")
    except (Faulty, ValueError) as faulty:  # a host without a port, too: whoever was refused wrote it
        raise DeniedError(f"no rule can say this: {faulty}", where="proposal", hint="") from None
    for key, _, why in _improper(draft):
        raise DeniedError(f"{key}: {why}", where="proposal", hint=_BY_HAND)
    return _flat(draft), built("proposal", [draft])


def _improper(draft: Draft) -> Iterable[tuple[str, Source, str]]:
    """(key, place, why) of all that an approved rule can't say."""
    if draft.extends:
        yield "extends", Source(draft.file), "an approved rule extends nothing"
    for key, entry in draft.entries.items():
        if not (_TABLES if entry.table else _KEYS).fullmatch(key):
            yield key, entry.source, "no approved rule says this: a person writes it into the policy"
            continue
        for item in entry.value if isinstance(entry.value, tuple) else ():
            if why := _why_no_item(key, item):
                yield key, entry.source, why


def _why_no_item(key: str, item: object) -> str:
    if isinstance(item, Connect):
        return _why_no_host(item)
    if key == "weakenings":
        return "" if item in NAMEABLE else f"no approved rule brings the weakening {item}"
    return "an approved rule names one thing, and is no pattern" if "*" in str(item) else ""


def _why_no_host(connect: Connect) -> str:
    if "*" in connect.host:
        return "an approved rule names one host, and is no pattern"
    host = normalise_host(connect.host)
    why = why_not_public(host.address) if host.address is not None else ""
    if "metadata" in why or host.name in _METADATA:
        return f"{connect.host} is a metadata service: whatever it tells is a key"
    if connect.private and host.address is None:
        return f"{connect.host} may lead anywhere: a private address is named as an address"
    return f"{connect.host} is not public: {why}" if why and not connect.private else ""


def _flat(draft: Draft) -> dict[str, tuple[str, ...]]:
    return {
        key: tuple(map(_item, entry.value))
        for key, entry in draft.entries.items()
        if isinstance(entry.value, tuple)
    }


def _item(item: object) -> str:
    if isinstance(item, Connect):
        return f"{item.host}:{item.port}{' private' if item.private else ''}"
    return str(item)


def written(name: str, fields: Mapping[str, str], grants: Grants) -> str:
    """One rule as its tables of the file."""
    texts = [rendered(f"rules.{name}", fields)]
    tables: dict[str, dict[str, object]] = {}
    for key, items in sorted(grants.items()):
        table, _, last = key.rpartition(".")
        values: object = tuple(map(_connect_table, items)) if key == "network.connect" else items
        tables.setdefault(table, {})[last] = values
    for table, values in tables.items():
        texts.append(rendered(f"rules.{name}.grants{table and '.'}{table}", values))
    return "\n".join(texts)


def _connect_table(item: str) -> dict[str, object]:
    place, blank, private = item.partition(" ")
    if blank and private != "private":
        raise ValueError(f"{item[:80]!r} is no HOST:PORT, or that and ` private`")
    host, _, port = place.rpartition(":")
    return {"host": host, "port": whole_number(port), **({"private": True} if private else {})}


def render(rules: Iterable[Approved], ended: Mapping[str, str] | None = None) -> str:
    """The file; of no rule a comment, as a file that says nothing on purpose has one.

    `ended`: as `read_ended` gives it.
    """
    texts = [
        written(one.id, {name: getattr(one, name) for name in _FIELDS}, one.grants)
        for one in sorted(rules, key=lambda one: (one.approved, one.id))
    ]
    return "\n".join(
        (
            "# Written by `bridgehold proposals approve`, and signed: what is changed by hand is refused.",
            *texts,
            *([rendered("ended", ended)] if ended else ()),
        )
    )


def by_key(public_key: bytes) -> Verified:
    """By the raw 32-byte Ed25519 key that approvals are signed with; empty: nothing is soundly signed."""
    return functools.partial(signatures.holds, public_key)


def in_force(rules: Iterable[Approved], now: float) -> tuple[Approved, ...]:
    """Those that hold at `now`."""
    return tuple(one for one in rules if one.until > now)


def next_end(rules: Iterable[Approved], now: float) -> int:
    """When the first of those that hold at `now` ends; 0: none does."""
    return min((one.until for one in in_force(rules, now)), default=0)


def until_each_ends(
    rules: tuple[Approved, ...], now: float, resolved: Callable[[Iterable[Policy]], Grant]
) -> Grant:
    """What is granted with those that hold at `now`, and once each of them has ended."""
    grant = resolved([one.adds for one in in_force(rules, now)])
    end = next_end(rules, now)
    if not end:
        return grant
    return msgspec.structs.replace(grant, until=end, then=until_each_ends(rules, end, resolved))


def widened(policy: Policy, adds: Iterable[Policy]) -> Policy:
    """`policy` with what each of `adds` names beside it; what it denies stays denied."""
    for more in adds:
        policy = _Union(policy, more).run()
    return policy


class _Union:
    def __init__(self, policy: Policy, more: Policy) -> None:
        self.policy, self.more = policy, more
        self.sources = dict(policy.sources)

    def run(self) -> Policy:
        policy, more = self.policy, self.more
        rules = {
            table: Rules(
                allow=self._joined(
                    f"{table}.allow", getattr(policy, table).allow, getattr(more, table).allow
                ),
                deny=getattr(policy, table).deny,
            )
            for table in ("operations", "tools", "resources")
        }
        return msgspec.structs.replace(
            policy,
            **rules,
            endpoints=self._endpoints(),
            connects=self._joined("network.connect", policy.connects, more.connects),
            weakenings=self._joined("weakenings", policy.weakenings, more.weakenings),
            sources=self.sources,
        )

    def _joined(self, key: str, before: tuple[T, ...], added: tuple[T, ...]) -> tuple[T, ...]:
        new = [(index, item) for index, item in enumerate(added) if item not in before]
        for at, (index, _) in enumerate(new, len(before)):
            self.sources[f"{key}[{at}]"] = self.more.sources[f"{key}[{index}]"]
        return (*before, *(item for _, item in new))

    def _endpoints(self) -> tuple[Endpoint, ...]:
        found = {one.provider: one for one in self.policy.endpoints}
        for one in self.more.endpoints:
            key = f"network.endpoints.{one.provider}"
            known = found.get(one.provider)
            if known is None:
                found[one.provider] = one
                self.sources |= {
                    name: source for name, source in self.more.sources.items() if name.startswith(key)
                }
            elif known.repos is None:  # of a hub neither says anything
                said = f"{key}.methods" in self.more.sources
                found[one.provider] = msgspec.structs.replace(
                    known,
                    methods=self._joined(f"{key}.methods", known.methods, one.methods if said else ()),
                    paths=self._joined(f"{key}.paths", known.paths or (), one.paths or ()),
                )
        return tuple(found.values())
