"""A whole run: told to the host before and after, acts in between, and the report of all."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from bridgehold.client.sync import SyncClient
from bridgehold.config.layout import Layout
from bridgehold.faces.attack import report as reports
from bridgehold.faces.attack.acts import Act
from bridgehold.faces.attack.judging import Outcome, judge_check
from bridgehold.faces.attack.outside import CANARY_VARIABLE, Outside
from bridgehold.faces.attack.running import run_acts
from bridgehold.faces.attack.ways import open_way
from bridgehold.policies.model import Grant
from bridgehold.sandbox.doctor import landlock
from bridgehold.sandbox.doctor.model import Context
from bridgehold.sandbox.doctor.run import run_one


def run_all(
    layout: Layout,
    bridge: str,
    tenant: str,
    acts: tuple[Act, ...],
    say: Callable[[str], None],
    policy: str = "",
) -> reports.Report:
    """`policy`: another than the bridge's own.

    Raises `BridgeholdError` where the bridge is granted nothing, or the caller is no operator."""
    outcomes = [*_by_doctor(acts)]  # it forks: before there are threads
    inside = tuple(act for act in acts if not act.doctor)
    with Outside() as outside:
        os.environ[CANARY_VARIABLE] = outside.canary  # of hosts that are started for it: none hands it on
        try:
            with SyncClient.open(layout) as client:
                grant = msgspec.convert(
                    client.request("grant", {"bridge": bridge, "tenant": tenant}), type=Grant
                )
                told = {"bridge": bridge, "tenant": tenant, "grant": grant.digest}
                client.request("attack.told", {**told, "phase": "begins", "counts": {"acts": len(acts)}})
                try:
                    with open_way(client, layout, grant, policy) as way:
                        outcomes.extend(run_acts(way, inside, outside, say))
                        ran = (way.grant, bridge, way.policy, way.text)
                finally:
                    counts = dict(Counter(one.came for one in outcomes))
                    client.request("attack.told", {**told, "phase": "ends", "counts": counts})
        finally:
            del os.environ[CANARY_VARIABLE]
    return reports.make(*ran, tuple(outcomes))


def _by_doctor(acts: tuple[Act, ...]) -> Iterator[Outcome]:
    probes = {probe.name: probe for probe in landlock.PROBES}
    for act in acts:
        if act.doctor:
            yield judge_check(act, run_one(probes[act.doctor], Context()))
