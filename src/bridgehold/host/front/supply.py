"""What is known of packages, as the operator's folder of advisories says it now, and what of it blocks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bridgehold import clock
from bridgehold.audit.events import EnvironmentScanned
from bridgehold.config.sections import SupplySection
from bridgehold.errors import DependencyError
from bridgehold.sandbox.envs.values import Environment
from bridgehold.sandbox.supply.advisories import Advisories, fingerprint, read_advisories
from bridgehold.sandbox.supply.judge import Hit, blocking, judge
from bridgehold.sandbox.supply.licences import Licence, taken
from bridgehold.sandbox.supply.scan import Basis, Contents, Report, Scanned, licences_of, pairs
from bridgehold.sandbox.supply.severity import as_threshold

LOOK_SECONDS = 60.0
"""How old a look at the folder may be: a new advisory blocks no later."""
_MOST_NAMES = 20_000
_MOST_TREES = 128
_TOLD = 64
_HINT = (
    "Pin a version that mends it and lock anew, or put its id into `[supply] accepted` of config.toml. "
    "`bridgehold bridge scan` shows all."
)


class _Held(msgspec.Struct, frozen=True):
    names: frozenset[str]
    state: str
    advisories: Advisories


class Supply:
    """One per host. The folder is read again once something in it has changed, in a thread."""

    def __init__(self, section: Callable[[], SupplySection] = SupplySection) -> None:
        self._section = section
        self._held: _Held | None = None
        self._looked = 0.0
        self._looking = asyncio.Lock()
        self._licences: dict[str, dict[str, Licence]] = {}
        """Of environments by digest: what was sealed says the same for ever."""

    @property
    def blocks(self) -> bool:
        """Whether anything may be blocked by advisories."""
        return bool(self._section().block)

    async def demand_licences(
        self,
        environment: Environment,
        tree: Path,
        let_go: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Raise `DependencyError` where a package of the environment in `tree` is under a licence that isn't
        taken, or what it says of itself can't be read; `let_go` of it before, where it was built just now.
        """
        if not self._section().licences:
            return
        known = self._licences.get(environment.digest)
        if known is None:
            known = await asyncio.to_thread(licences_of, tree, environment.python)
            if len(self._licences) >= _MOST_TREES:
                self._licences.clear()
            self._licences[environment.digest] = known
        packages = ((one.name, one.version, known.get(one.name)) for one in environment.packages)
        try:
            refuse_licences(packages, self._section())
        except DependencyError:
            if let_go is not None:
                await let_go(environment.digest)
            raise

    async def demand(self, packages: Sequence[tuple[str, str]]) -> None:
        """Raise `DependencyError` where the configuration has `packages` not be used."""
        advisories = await self.advisories({name for name, _ in packages})
        refuse(packages, advisories, self._section(), datetime.fromtimestamp(clock.now(), UTC))

    async def advisories(self, names: Collection[str], *, fresh: bool = False) -> Advisories:
        """About `names`, no older than `LOOK_SECONDS`; `fresh`: as they are now. Raises `DependencyError`."""
        folder = self._section().advisories
        if not folder:
            return Advisories(folder="")
        async with self._looking:
            held = self._held
            if held is not None and held.advisories.folder != folder:
                held = None
            old = fresh or time.monotonic() - self._looked >= LOOK_SECONDS
            if held is None or old or not held.names.issuperset(names):
                self._held = held = await asyncio.to_thread(_read, Path(folder), frozenset(names), held)
                self._looked = time.monotonic()
            return held.advisories

    def verdict(
        self,
        environment: Environment,
        bridges: tuple[str, ...],
        contents: Contents,
        advisories: Advisories,
        fail_on: str,
    ) -> Scanned:
        """On one environment, by what the configuration says now (pure but for that, and the time)."""
        section, packages = self._section(), pairs(contents.parts)
        hits = judge(packages, advisories, section.accepted)
        threshold = as_threshold(fail_on)
        grave = threshold is not None and (advisories.unread_count or blocking(hits, threshold))
        return Scanned(
            digest=environment.digest,
            bridges=bridges,
            python=environment.python,
            platform=environment.platform,
            contents=contents,
            hits=hits,
            ok=not (grave or contents.changed or contents.findings),
            blocked=why_blocked(
                packages,
                advisories,
                section,
                [(one.name, one.version, one.licence) for one in contents.parts if not contents.changed],
            ),
        )

    def basis(self, advisories: Advisories) -> Basis:
        """What a verdict by `advisories` rests on."""
        now = datetime.fromtimestamp(clock.now(), UTC)
        return Basis(
            folder=advisories.folder,
            files=advisories.files,
            newest=advisories.newest,
            age_days=advisories.age_days(now),
            stale=bool(advisories.folder and stale(advisories, self._section(), now)),
            unread=advisories.unread,
            unread_count=advisories.unread_count,
        )


def read_now(section: SupplySection, names: Collection[str]) -> tuple[Advisories, bool]:
    """The advisories about `names` that `section` names, and whether they are too old."""
    now = datetime.fromtimestamp(clock.now(), UTC)
    advisories = read_advisories(Path(section.advisories), names, now)
    return advisories, stale(advisories, section, now)


def stale(advisories: Advisories, section: SupplySection, now: datetime) -> bool:
    """Whether the newest is older than may be, or there is none (pure)."""
    age = advisories.age_days(now)
    return bool(section.max_age_days) and (age is None or age > section.max_age_days)


def refuse(
    packages: Iterable[tuple[str, str]], advisories: Advisories, section: SupplySection, now: datetime
) -> None:
    """Raise `DependencyError` where `section` has `packages` not be used (pure)."""
    threshold = as_threshold(section.block)
    if threshold is None:
        return
    if advisories.unread:
        first = advisories.unread[0]
        raise DependencyError(
            f"{advisories.unread_count} of the advisories can't be read, the first: {first.why}",
            where=first.file,
            hint="Mend or remove it: what it says is not known. `[supply] block` demands that all are.",
        )
    if not advisories.files or stale(advisories, section, now):
        when = f"the newest is of {advisories.newest}" if advisories.newest else "none says when it is of"
        raise DependencyError(
            f"the advisories are too old: {when if advisories.files else 'there is none'}",
            where=advisories.folder,
            hint="Bring newer ones; `[supply] max_age_days` says how old they may be.",
        )
    hits = blocking(judge(packages, advisories, section.accepted), threshold)
    if hits:
        more = f" (and {len(hits) - 1} more)" if len(hits) > 1 else ""
        raise DependencyError(f"{tell(hits[0])}{more}", where=hits[0].file, hint=_HINT)


def refuse_licences(packages: Iterable[tuple[str, str, Licence | None]], section: SupplySection) -> None:
    """Raise `DependencyError` where `section` doesn't take the licence of one of them (pure).

    None: what it says of itself can't be read.
    """
    for name, version, licence in packages if section.licences else ():
        if f"pkg:{name}" in section.accepted or (licence is not None and taken(licence, section.licences)):
            continue
        said = str(licence)[:200] if licence is not None else "what it says can't be read"
        raise DependencyError(
            f"{name} {version} is under a licence that is not taken: {said}",
            where="[supply] licences",
            hint=f'Lock anew without it, or put "pkg:{name}" into `[supply] accepted` of config.toml.',
        )


def why_blocked(
    packages: Iterable[tuple[str, str]],
    advisories: Advisories,
    section: SupplySection,
    licensed: Iterable[tuple[str, str, Licence | None]] = (),
) -> str:
    """In words; empty where `packages` may be used now. `licensed`: the same, as far as their licences are
    known."""
    try:
        refuse(packages, advisories, section, datetime.fromtimestamp(clock.now(), UTC))
        refuse_licences(licensed, section)
    except DependencyError as error:
        return error.message
    return ""


def tell(hit: Hit) -> str:
    """A hit, in a sentence."""
    mended = f"; mended in {', '.join(hit.fixed[:5])}" if hit.fixed else ""
    return f"{hit.package} {hit.version} is vulnerable: {hit.id}, {hit.severity}{mended}"


def event_of(verdict: Scanned, report: Report, principal: str) -> EnvironmentScanned:
    """What the audit says of a verdict (pure)."""
    return EnvironmentScanned(
        principal=principal,
        bridge=" ".join(verdict.bridges)[:300],
        digest=verdict.digest,
        ok=verdict.ok,
        fail_on=report.fail_on,
        blocked=verdict.blocked[:500],
        packages=len(verdict.contents.parts),
        findings=len(verdict.contents.findings),
        advisories=tuple(f"{h.package} {h.version} {h.id} {h.severity}" for h in verdict.hits[:_TOLD]),
        count=len(verdict.hits),
        newest=report.advisories.newest,
        unread=report.advisories.unread_count,
    )


def _read(folder: Path, names: frozenset[str], held: _Held | None) -> _Held:
    """As it is now; what is held stays where nothing has changed."""
    state = fingerprint(folder)
    if held is not None and held.state == state and held.names >= names:
        return held
    if held is not None and len(held.names | names) <= _MOST_NAMES:
        names |= held.names
    return _Held(names, state, read_advisories(folder, names, datetime.fromtimestamp(clock.now(), UTC)))
