"""A whole run: told to the host before and after, acts in between, and the report of all."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import msgspec

from bridgehold.client.sync import SyncClient
from bridgehold.config.layout import Layout
from bridgehold.faces.attack import report as reports
from bridgehold.faces.attack.acts import Act
from bridgehold.faces.attack.judging import Outcome
from bridgehold.faces.attack.outside import CANARY_VARIABLE, Outside
from bridgehold.faces.attack.running import run_acts
from bridgehold.faces.attack.ways import open_way
from bridgehold.policies.model import Grant


def run_all(
    layout: Layout, bridge: str, tenant: str, acts: tuple[Act, ...], say: Callable[[str], None]
) -> reports.Report:
    """Raises `BridgeholdError` where the bridge is granted nothing, or the caller is no operator."""
    with Outside() as outside:
        os.environ[CANARY_VARIABLE] = outside.canary  # of hosts that are started for it: none hands it on
        try:
            with SyncClient.open(layout) as client:
                grant = msgspec.convert(
                    client.request("grant", {"bridge": bridge, "tenant": tenant}), type=Grant
                )
                told = {"bridge": bridge, "tenant": tenant, "grant": grant.digest}
                client.request("attack.told", {**told, "phase": "begins", "counts": {"acts": len(acts)}})
                outcomes: list[Outcome] = []
                try:
                    with open_way(client, layout, grant) as way:
                        outcomes.extend(run_acts(way, grant, acts, outside, say))
                        text = way.text
                finally:
                    counts = dict(Counter(one.came for one in outcomes))
                    client.request("attack.told", {**told, "phase": "ends", "counts": counts})
        finally:
            del os.environ[CANARY_VARIABLE]
    return reports.make(grant, text, tuple(outcomes))
