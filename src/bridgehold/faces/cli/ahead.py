"""The sandbox of `bridgehold python`, asked for while the command line is still being loaded.

A fresh sandbox is made on the host's side, while this one loads what reads a command line: half of its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from bridgehold.client.once import Once

_VALUED = ("--file", "--read", "--env", "--cwd", "--limit", "--bridge", "--tenant")
_PROGRAM = ("-c", "-m")


class Ahead(NamedTuple):
    """A session that is opening, on a connection of its own."""

    host: Once
    request: int
    bridge: str
    tenant: str


_begun: list[Ahead] = []


def begin(words: list[str]) -> None:
    """Ask for it, where `words` (after ``bridgehold python``) say plainly whose it is and a host runs."""
    asked = whose(words)
    if asked is None:
        return
    from bridgehold.client.once import Once
    from bridgehold.config.layout import default_layout
    from bridgehold.errors import BridgeholdError

    try:
        host = Once.open(default_layout().socket)
    except BridgeholdError:  # the command meets it too, and says so
        return
    bridge, tenant = asked
    params = {"bridge": bridge, "tenant": tenant, "progress": True}
    _begun.append(Ahead(host, host.send("session.hold", params), bridge, tenant))


def take(bridge: str, tenant: str) -> Ahead | None:
    """What was begun for that bridge and tenant, once; for another it ends."""
    begun = _begun.pop() if _begun else None
    if begun is None or (begun.bridge, begun.tenant) == (bridge, tenant):
        return begun
    with begun.host:
        return None


def whose(words: list[str]) -> tuple[str, str] | None:
    """(bridge, tenant) of a line whose program needs nothing that takes its time before (pure)."""
    from bridgehold.ids import LOCAL_TENANT, is_name

    found = {"--bridge": "python", "--tenant": LOCAL_TENANT}
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if name in _VALUED:
            if not equals and (value := next(left, "")).startswith("-"):
                return None
            if name == "--limit" and not value.startswith("time="):  # of its session, which is another one
                return None
            found[name] = value
            continue
        known = all(is_name(found[one]) for one in ("--bridge", "--tenant"))
        program = word in _PROGRAM or not word.startswith("-")
        return (found["--bridge"], found["--tenant"]) if known and program else None
    return None
