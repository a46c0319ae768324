"""The intersection of a manifest's needs with a policy; each item left out is named with its reason."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from bridgehold.errors import DeniedError
from bridgehold.policies import globs
from bridgehold.policies import rules as matching
from bridgehold.policies.model import Connect, Endpoint, Needs, Policy, Rules, SecretGrant, Source
from bridgehold.policies.names import (
    host_covers,
    meet_paths,
    normalise_host_pattern,
    normalise_path_pattern,
    path_covers,
    prune_paths,
)
from bridgehold.policies.narrow import source_of


class Intersection:
    """One resolution. `sources` follows the items of every list that is made; `withheld` grows."""

    def __init__(
        self,
        needs: Needs,
        policy: Policy,
        sources: dict[str, Source],
        private_providers: Collection[str] = (),
    ) -> None:
        """`private_providers` are not reached without the weakening ``private_network``."""
        self._needs = needs
        self._policy = policy
        self._private = () if "private_network" in policy.weakenings else private_providers
        self.sources = sources
        self.withheld: list[str] = []

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Providers that both name, with the methods and paths of both."""
        granted = {endpoint.provider: endpoint for endpoint in self._policy.endpoints}
        found: list[Endpoint] = []
        for need in self._needs.endpoints:
            rule = granted.get(need.provider)
            met = self._endpoint(need, rule) if rule else None
            if met is None:
                self.withheld.append(f"endpoint {need.provider}: not granted by the policy")
            elif need.provider in self._private:
                self.withheld.append(f"endpoint {need.provider}: private_network was taken away")
            else:
                found.append(met)
        return tuple(found)

    def _endpoint(self, need: Endpoint, rule: Endpoint) -> Endpoint | None:
        if rule.repos is not None:  # what a hub gives is the operator's to say; a manifest asks for it or not
            return rule
        methods = tuple(method for method in rule.methods if method in need.methods)
        paths = self._paths(need, rule)
        if not methods or not paths:
            return None
        if need.remote_content and not rule.remote_content:
            self.withheld.append(f"endpoint {need.provider}: remote_content")
        return Endpoint(
            provider=need.provider,
            methods=methods,
            paths=paths,
            remote_content=need.remote_content and rule.remote_content,
            fields=rule.fields,  # the operator's to say: no manifest knows what a provider comes to add
        )

    def _paths(self, need: Endpoint, rule: Endpoint) -> tuple[str, ...]:
        """Paths of both; a manifest that says nothing of them takes whatever the policy grants."""
        granted, met = rule.paths or (), list[str]()
        for path in need.paths or ():
            try:
                wanted = normalise_path_pattern(path)
            except DeniedError as error:
                self.withheld.append(f"endpoint {need.provider}: {error.message}")
                continue
            found = [item for given in granted for item in meet_paths(given, wanted)]
            if not found:
                self.withheld.append(f"endpoint {need.provider}: path {wanted}")
            met += found
        paths = granted if need.paths is None else prune_paths(met)
        key = f"network.endpoints.{need.provider}.paths"
        origins = [
            next(index for index, given in enumerate(granted) if path_covers(given, path)) for path in paths
        ]
        self._move(key, [f"{key}[{index}]" for index in origins])
        return paths

    def connects(self) -> tuple[Connect, ...]:
        """The narrower host of each pair that meets; the port is the same in both."""
        found: list[Connect] = []
        origins: list[str] = []
        for need in self._needs.connects:
            before = len(found)
            for index, rule in enumerate(self._policy.connects):
                met = self._connect(need, rule)
                if met is not None and met not in found:
                    found.append(met)
                    origins.append(f"network.connect[{index}]")
            if len(found) == before:
                self.withheld.append(f"connect {need.host}:{need.port}: not granted by the policy")
        self._move("network.connect", origins)
        return tuple(found)

    def _connect(self, need: Connect, rule: Connect) -> Connect | None:
        if need.port != rule.port or "connect" not in self._policy.weakenings:
            return None
        try:
            wanted = normalise_host_pattern(need.host)
        except DeniedError:
            return None
        if host_covers(rule.host, wanted):
            host = wanted
        elif host_covers(wanted, rule.host):
            host = rule.host
        else:
            return None
        private = need.private and rule.private and "private_network" in self._policy.weakenings
        return Connect(host=host, port=rule.port, private=private)

    def secrets(self, endpoints: tuple[Endpoint, ...]) -> tuple[SecretGrant, ...]:
        """Secrets on whose name and way both agree, bound to a granted endpoint."""
        granted = {secret.name: secret for secret in self._policy.secrets}
        providers = {endpoint.provider for endpoint in endpoints}
        found: list[SecretGrant] = []
        for need in self._needs.secrets:
            why = self._why_not(need, granted.get(need.name), providers)
            if why:
                self.withheld.append(f"secret {need.name}: {why}")
            else:
                found.append(granted[need.name])
        return tuple(found)

    def _why_not(self, need: SecretGrant, rule: SecretGrant | None, providers: set[str]) -> str:
        if rule is None:
            return "not granted by the policy"
        if need.how != rule.how:
            return f"the bridge works with {need.how!r} only, the policy grants {rule.how!r}"
        if rule.how == "env":
            if "env_secret" not in self._policy.weakenings:
                return "the weakening env_secret was taken away"
            return "" if need.variable == rule.variable else f"the policy grants it as {rule.variable}"
        if need.provider and need.provider != rule.provider:
            return f"the policy binds it to {rule.provider!r}"
        return "" if rule.provider in providers else f"its endpoint {rule.provider!r} isn't granted"

    def rules(self, table: Literal["operations", "resources"], asked: tuple[str, ...]) -> Rules:
        """The names (or patterns) that are allowed one by one, and what denies, for the reason's sake."""
        rules: Rules = getattr(self._policy, table)
        allowed: list[str] = []
        origins: list[str] = []
        for name in dict.fromkeys(asked):
            if "*" in name:  # of a bridge whose operations nobody can declare: what both patterns allow
                both = [(i, part) for i, rule in enumerate(rules.allow) for part in globs.meet(rule, name)]
                allowed += [part for _, part in both]
                origins += [f"{table}.allow[{index}]" for index, _ in both]
                continue
            found = matching.match(rules, name)
            if found.allowed:
                allowed.append(name)
                origins.append(f"{table}.{found.rule}")
            else:
                self.withheld.append(f"{table.removesuffix('s')} {name}: {found.rule or 'not allowed'}")
        self._move(f"{table}.allow", origins)
        return Rules(allow=tuple(allowed), deny=rules.deny)

    def _move(self, key: str, origins: list[str]) -> None:
        """Give item N of the new list at `key` the source of `origins[N]`."""
        moved = [source_of(self.sources, origin) for origin in origins]
        for name in [name for name in self.sources if name.startswith(f"{key}[")]:
            del self.sources[name]
        self.sources.update({f"{key}[{index}]": source for index, source in enumerate(moved)})
