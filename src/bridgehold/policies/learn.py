"""A least-privilege policy drafted out of what a bridge was seen to do, each line with its events (pure).

What is seen may be hostile: whatever the bridge was let do once is in the draft, and a person signs it. What
no draft holds, whatever was seen: secrets, tunnels (so metadata services and private addresses), providers at
private addresses, devices, folders and weakenings. It names single things, and has no pattern.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

import msgspec

from bridgehold.errors import DeniedError
from bridgehold.ids import is_name
from bridgehold.policies.names import normalise_path
from bridgehold.policies.simulate import Act
from bridgehold.policies.vocabulary import METHODS

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}", re.ASCII)
_REF = re.compile(r"i-[0-9a-z]{12}\.[0-9]{1,16}", re.ASCII)
_NAMED, _MOST = 3, 500
"""Events that a line names, and names that a table holds."""
_LEFT_OUT = {
    "connect": "a tunnel: what passes is not seen, and it takes a weakening",
    "private": "a provider at a private address, which takes a weakening",
    "odd": "a name that no policy can hold",
}


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """A draft, and what is not in it."""

    text: str
    lines: dict[str, tuple[str, ...]]
    """By ``KEY VALUE``: references of the events that speak for it."""
    left_out: dict[str, tuple[str, ...]]
    """By what was seen and why it is left out: likewise."""


def learn(bridge: str, tenant: str, acts: Iterable[Act], private_providers: Collection[str] = ()) -> Learned:
    """Of what `acts` let through; those of others and refusals are passed over."""
    seen: dict[tuple[str, str], list[str]] = {}
    left: dict[str, list[str]] = {}
    for act in acts:
        if not act.allowed or (act.bridge, act.tenant) != (bridge, tenant):
            continue
        event = act.event if _REF.fullmatch(act.event) else "an event"
        for key, value in _keys(act, private_providers):
            (seen.setdefault((key, value), []) if key else left.setdefault(value, [])).append(event)
    tables: dict[str, dict[str, list[str]]] = {}
    for (key, value), events in sorted(seen.items()):
        tables.setdefault(key, {})[value] = events
    return Learned(
        text="\n".join(_text(bridge, tenant, tables, left)) + "\n",
        lines={f"{key} {value}": tuple(events) for (key, value), events in sorted(seen.items())},
        left_out={what: tuple(events) for what, events in sorted(left.items())},
    )


def _keys(act: Act, private: Collection[str]) -> Iterator[tuple[str, str]]:
    """(dotted key, what is added there) of all that allows it; or an empty key, and why it is left out."""
    match act.what:
        case "operation" if _NAME.fullmatch(act.name):
            if not act.name.startswith("common:"):  # which need no grant
                yield "operations.allow", act.name
            yield from (("resources.allow", kind) for kind in act.kinds if _NAME.fullmatch(kind))
        case "tool" if _NAME.fullmatch(act.name):
            yield "tools.allow", act.name
        case "egress":
            yield from _of_egress(act.name, private)
        case "connect":
            yield "", _LEFT_OUT["connect"]
        case _:
            yield "", _LEFT_OUT["odd"]


def _of_egress(name: str, private: Collection[str]) -> Iterator[tuple[str, str]]:
    provider, _, rest = name.partition(" ")
    method, _, path = rest.partition(" ")
    try:
        plain = normalise_path(path)
    except DeniedError:
        plain = ""
    if not is_name(provider) or method not in METHODS or not plain or "*" in plain:
        yield "", _LEFT_OUT["odd"]
    elif provider in private:
        yield "", _LEFT_OUT["private"]
    else:
        yield f"network.endpoints.{provider}.methods", method
        yield f"network.endpoints.{provider}.paths", plain


def _text(
    bridge: str, tenant: str, tables: dict[str, dict[str, list[str]]], left: dict[str, list[str]]
) -> Iterator[str]:
    name = f"{bridge}@{tenant}"
    yield f"# Drafted out of what {bridge} of {tenant} was let do. Worth nothing until somebody signs it:"
    yield f"#   policies/{name}.toml, then `bridgehold policy approve {name} --for 30d`."
    yield "# Keys are a person's to grant, as `[secrets.NAME]`; limits are those of the baseline."
    yield 'extends = "baseline"'
    open_table = ""
    for key, values in tables.items():
        table, _, last = key.rpartition(".")
        if table != open_table:
            yield f"\n[{table}]"
            open_table = table
        yield f"{last} = ["
        for value, events in list(values.items())[:_MOST]:
            yield f'  "{value}",  # {_events(events)}'
        yield "]"
        if last == "methods" and len(values) > 1:
            yield "# Each of these methods is open on each of these paths: nobody has seen all of them."
    if left:
        yield "\n# Left out, whatever was seen:"
        yield from (f"#   {what}: {_events(events)}" for what, events in sorted(left.items()))


def _events(events: list[str]) -> str:
    named = ", ".join(events[:_NAMED])
    more = len(events) - _NAMED
    return f"{named} and {more} more" if more > 0 else named
