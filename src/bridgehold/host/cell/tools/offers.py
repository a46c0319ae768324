"""Which tools a command is offered: the operator's, and those that its caller brought."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import msgspec

from bridgehold.config.sections import ToolSection
from bridgehold.config.settings import Settings
from bridgehold.errors import UsageError
from bridgehold.host.cell.tools.values import Offered, ToolSource, ToolSpec, check_tools

_MOST_KNOWN = 1_024


class CallersOffer(msgspec.Struct, frozen=True):
    """What a caller brought with its command, and how it is asked."""

    tools: tuple[ToolSpec, ...]
    source: ToolSource


class Offers:
    """The operator's tools, by the configuration."""

    def __init__(
        self,
        settings: Settings,
        http: ToolSource,
        process: ToolSource,
        host: tuple[tuple[ToolSpec, ...], ToolSource],
    ) -> None:
        """`host`: what the host itself offers to every command. `UsageError` for a tool that can't be one."""
        self._settings = settings
        self._sources = {"http": http, "process": process}
        self._own = {tool.name: (tool, host[1]) for tool in host[0]}
        self._specs: dict[str, ToolSpec] = {}
        self.known: dict[tuple[str, str], Offered] = {}
        """What is offered to a tenant with a bridge, beside its callers' own, under this configuration."""
        self.replace(self.specs(settings.now.tools))

    def specs(self, sections: Mapping[str, ToolSection]) -> dict[str, ToolSpec]:
        """The tools of a configuration. Raises `UsageError` for one that can't be one."""
        return checked_specs(sections, self._own)

    def replace(self, specs: dict[str, ToolSpec]) -> None:
        """From now on these are offered, under the configuration that holds now."""
        self._specs = specs
        self.known.clear()

    def of(self, tenant: str, bridge: str, callers: CallersOffer | None) -> Offered:
        """All that a command of `tenant` with `bridge` may call. Raises `UsageError` for the caller's."""
        offered = self.known.get((tenant, bridge))
        if offered is None:
            if len(self.known) >= _MOST_KNOWN:
                self.known.clear()
            offered = self.known[tenant, bridge] = self._operators(tenant, bridge)
        return offered if callers is None else self._joined(tenant, offered, callers)

    def _operators(self, tenant: str, bridge: str) -> Offered:
        """What the operator and the host itself offer."""
        features = self._settings.features
        if not features.on("tools", tenant):
            return {}
        sections = self._settings.now.tools
        offered = {
            name: (spec, self._sources[spec.how])
            for name, spec in self._specs.items()
            if _for(sections[name].tenants, tenant) and _for(sections[name].bridges, bridge)
        }
        return offered | self._own if features.on("artifacts", tenant) else offered

    def _joined(self, tenant: str, operators: Offered, callers: CallersOffer) -> Offered:
        self._settings.features.demand("tools", tenant)
        check_tools(callers.tools)
        for tool in callers.tools:
            if tool.name in operators:
                raise UsageError(f"the operator already has a tool {tool.name!r}", where="tools")
        return {**operators, **{tool.name: (tool, callers.source) for tool in callers.tools}}


def checked_specs(sections: Mapping[str, ToolSection], own: Iterable[str]) -> dict[str, ToolSpec]:
    """The tools of a configuration, beside the host's `own` (pure). Raises `UsageError`."""
    found = {name: spec_of(name, section) for name, section in sections.items()}
    check_tools(tuple(found.values()))
    if taken := sorted(set(own) & set(found)):
        raise UsageError(f"the host itself has a tool {taken[0]!r}", where=f"tools.{taken[0]}")
    return found


def spec_of(name: str, section: ToolSection) -> ToolSpec:
    """A tool of the configuration (pure)."""
    return ToolSpec(
        name=name,
        description=section.description,
        parameters=section.parameters,
        result=section.result,
        timeout_ms=int(section.timeout_s * 1000),
        how="process" if section.entry else "http",
    )


def _for(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
