"""Which of a submitted bridge's releases is in use: ``current.toml`` beside them, as values (pure).

``tenants/NAME/bridges/BRIDGE/releases/DIGEST`` holds a release that was approved, and is never changed:
a session that began with it keeps it, whatever is in use meanwhile. One small file says which one new
sessions begin with, and to which one `bridgehold bridge rollback` returns.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from bridgehold.errors import PolicyError
from bridgehold.ids import is_digest
from bridgehold.policies.problems import Faulty, policy_error
from bridgehold.policies.tables import Table, rendered

CURRENT = "current.toml"
RELEASES = "releases"
MOST_KEPT = 8
"""Before the one in use, and as many that were rolled back: what is older goes when another comes."""


class Releases(msgspec.Struct, frozen=True, kw_only=True):
    """What `current.toml` says."""

    digest: str = ""
    """Of the release in use; empty: none is, as before the first."""
    earlier: tuple[str, ...] = ()
    """Those before it, the newest first."""
    undone: tuple[str, ...] = ()
    """Those that were rolled back, the newest first."""
    submission: str = ""
    by: str = ""
    """Who approved it, or rolled back to it."""
    at: str = ""

    @property
    def kept(self) -> frozenset[str]:
        """Every release whose folder stays."""
        return frozenset({self.digest, *self.earlier, *self.undone} - {""})


def folder_of(home: Path, digest: str) -> Path:
    """Where a release of the bridge at `home` lies."""
    return home / RELEASES / digest.removeprefix("sha256:")


def parse(text: str, file: str) -> Releases:
    """As `text` says it. Raises `PolicyError` with every fault and its line."""
    try:
        table = Table(text, file)
        found = Releases(
            digest=table.text("digest"),
            earlier=table.names("earlier"),
            undone=table.names("undone"),
            submission=table.text("submission"),
            by=table.text("by"),
            at=table.text("at"),
        )
        listed = (*([found.digest] if found.digest else []), *found.earlier, *found.undone)
        if not all(map(is_digest, listed)):
            table.fault("digest", "sha256: and 64 hexadecimal digits are expected")
        if max(len(found.earlier), len(found.undone)) > MOST_KEPT:
            table.fault("earlier", f"at most {MOST_KEPT} are kept")
        table.done()
    except Faulty as faulty:
        raise policy_error(faulty.problems) from None
    return found


def render(releases: Releases) -> str:
    """The text that `parse` reads."""
    head = (
        "# What new sessions begin with. Written by `bridgehold bridge submissions approve` and `rollback`.\n"
    )
    return head + rendered("", msgspec.structs.asdict(releases))


def approved(before: Releases, digest: str, *, submission: str, by: str, at: str) -> Releases:
    """`digest` is in use from here on; the one before it is kept to return to."""
    earlier = tuple(one for one in (before.digest, *before.earlier) if one and one != digest)
    undone = tuple(one for one in before.undone if one != digest)
    return Releases(
        digest=digest,
        earlier=earlier[:MOST_KEPT],
        undone=undone,
        submission=submission,
        by=by,
        at=at,
    )


def rolled_back(before: Releases, *, by: str, at: str) -> Releases:
    """The one before it is in use again; before the first there is none. Raises `PolicyError`."""
    if not before.digest:
        raise PolicyError(
            "none of its releases is in use", hint="Approve one: `bridgehold bridge submissions`."
        )
    undone = (before.digest, *(one for one in before.undone if one != before.digest))
    return Releases(
        digest=before.earlier[0] if before.earlier else "",
        earlier=before.earlier[1:],
        undone=undone[:MOST_KEPT],
        by=by,
        at=at,
    )
