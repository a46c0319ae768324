"""A scan: what built environments consist of, the verdict on each, and the audit's word of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bridgehold.bridges.manifest import Manifest
from bridgehold.errors import NotFoundError
from bridgehold.host.front.environments import Environments
from bridgehold.host.front.supply import event_of
from bridgehold.sandbox.supply.scan import Report


async def scan(
    environments: Environments,
    manifests: Sequence[Manifest],
    fail_on: str,
    principal: str,
    *,
    others: bool = False,
) -> Report:
    """What is built for `manifests`, verified and looked at; `others`: all the rest here too.

    Raises `NotFoundError` where nothing is built for them, `DependencyError` where the folder of advisories
    can't be read at all.
    """
    verified = {one.digest: one for one in await environments.verify(manifests, others=others)}
    chosen = await environments.chosen(manifests, others=others)
    if not (others or chosen):
        named = ", ".join(manifest.name for manifest in manifests)
        raise NotFoundError(
            f"the environment of {named} is not built", hint=f"`bridgehold bridge build {named}` builds it."
        )
    supply, names = environments.supply, {part.name for one, _ in chosen for part in one.packages}
    advisories = await supply.advisories(names, fresh=True)
    scanned = []
    for environment, bridges in chosen:
        seen = verified.get(environment.digest)
        changed = seen.detail if seen is not None else "it was not there a moment ago"
        contents = await asyncio.to_thread(environments.look, environment, changed)
        scanned.append(supply.verdict(environment, bridges, contents, advisories, fail_on))
    report = Report(environments=tuple(scanned), advisories=supply.basis(advisories), fail_on=fail_on)
    for verdict in scanned:
        await environments.record(event_of(verdict, report, principal))
    return report
