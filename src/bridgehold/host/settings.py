"""The configuration that holds now. What may change while the host runs is read from here at each use."""

from __future__ import annotations

from bridgehold.host.config import Config
from bridgehold.host.config_sections import BridgeSection, FeaturesSection
from bridgehold.host.parked import PoolLimits
from bridgehold.host.zygote_rules import ZygoteLimits
from bridgehold.policies.units import parse_size

_NO_SECTION = BridgeSection()


class Settings:
    """One per host; `now` is replaced as a whole."""

    def __init__(self, config: Config) -> None:
        self.now = config

    @property
    def features(self) -> FeaturesSection:
        return self.now.features

    def bridge(self, name: str) -> BridgeSection:
        return self.now.bridges.get(name, _NO_SECTION)

    def recovers(self, tenant: str, bridge: str) -> bool:
        """Whether a lost session is made again."""
        return self.features.on("recovery", tenant) and self.bridge(bridge).recovery

    def pool(self, tenant: str, bridge: str) -> PoolLimits:
        """What stands parked for a tenant."""
        section = self.bridge(bridge)
        return PoolLimits(
            size=section.pool_size if self.features.on("pools", tenant) else 0,
            overflow=section.overflow,
            checkout_s=section.checkout_timeout_s,
        )

    def zygotes(self) -> ZygoteLimits:
        """``[zygotes]`` in numbers."""
        section = self.now.zygotes
        return ZygoteLimits(
            budget_bytes=parse_size(section.budget),
            memory_bytes=parse_size(section.memory),
            max_age_s=section.max_age_s,
            growth=section.growth,
            warm_s=section.warm_s,
            check_s=section.check_s,
        )
