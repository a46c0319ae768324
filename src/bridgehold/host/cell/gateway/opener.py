"""Opens a gateway for each session: what all sessions share is held here."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

from bridgehold.config.load import Config
from bridgehold.host.cell.gateway.gateway import Gateway
from bridgehold.host.cell.gateway.served import Keeper
from bridgehold.host.cell.gateway.values import Attribution, GatewayLimits, ProviderFacts, SessionFacts
from bridgehold.host.cell.store.downloads import Downloads
from bridgehold.host.front.boots import StartOrder
from bridgehold.host.shares.buffers import Buffers
from bridgehold.host.shares.dialling import dial, provider_place
from bridgehold.host.shares.lending import Lent
from bridgehold.host.shares.openings import Openings
from bridgehold.host.shares.session_events import SessionEvents
from bridgehold.keeper.budgets import Budgets
from bridgehold.keeper.places import Places
from bridgehold.keeper.resolve import system_lookup
from bridgehold.policies.units import parse_size

_VERSION = re.compile(r"v[0-9]{1,3}(?:(?:alpha|beta)[0-9]{0,3})?")


class GatewayOpener:
    """One per host. `attribution` says for whom a session asks now."""

    def __init__(
        self,
        config: Config,
        *,
        keeper: Keeper,
        budgets: Budgets,
        downloads: Downloads,
        attribution: Callable[[str], Attribution],
        descriptors: Places,
        limits: GatewayLimits | None = None,
        openings: Openings | None = None,
        lent: Lent | None = None,
    ) -> None:
        """`openings`: where this process reaches nothing outside by itself. `lent`: as of `Buffers`."""
        self._keeper = keeper
        self._budgets = budgets
        self._downloads = downloads
        self._attribution = attribution
        self._descriptors = descriptors
        self._limits = limits or GatewayLimits()
        self._openings = openings
        self.providers = provider_facts(config)
        """As they are now: every gateway looks here."""
        self._buffers = Buffers(parse_size(config.host.buffered_bytes), lent=lent)

    def replace(self, config: Config) -> None:
        """Other providers hold from now on, for sessions that are open too."""
        now = provider_facts(config)
        self.providers.clear()
        self.providers.update(now)

    @property
    def buffers(self) -> Buffers:
        """The bytes that all gateways of the host may hold."""
        return self._buffers

    async def open(
        self,
        listener: socket.socket,
        order: StartOrder,
        placeholders: dict[str, str],
        events: SessionEvents,
    ) -> Gateway:
        """A serving gateway on `listener`, which it owns from now on."""
        grant, session, outside = order.grant, order.session, self._openings
        facts = SessionFacts(tenant=grant.tenant, session=session, placeholders=placeholders)
        gateway = Gateway(
            listener,
            grant,
            facts,
            keeper=self._keeper,
            events=events,
            budgets=self._budgets,
            buffers=self._buffers,
            providers=self.providers,
            downloads=self._downloads,
            attribution=lambda: self._attribution(session),
            descriptors=self._descriptors,
            limits=self._limits,
            lookup=partial(outside.lookup, grant.bridge) if outside is not None else system_lookup,
            dial=partial(outside.dial, grant.bridge) if outside is not None else dial,
        )
        gateway.start()
        return gateway


def provider_facts(config: Config) -> dict[str, ProviderFacts]:
    """What the host may know of the configured providers (pure)."""
    found = {}
    for name, section in config.providers.items():
        host, port = provider_place(section.base_url)
        last = urlsplit(section.base_url).path.rstrip("/").rpartition("/")[2]
        found[name] = ProviderFacts(
            name=name,
            host=host,
            port=port,
            base_url=section.base_url,
            shape=section.shape,
            keyed=section.auth != "none",
            version=last if _VERSION.fullmatch(last) else "",
        )
    return found
