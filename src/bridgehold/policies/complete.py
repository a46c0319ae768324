"""What a composed policy must fulfil as a whole: every rule usable, every weakening named (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from bridgehold.policies.model import Policy
from bridgehold.policies.narrow import source_of
from bridgehold.policies.problems import Problem


def problems_of(policy: Policy, private_providers: Collection[str] = ()) -> tuple[Problem, ...]:
    """Every rule of `policy` that can't work, or that demands a weakening nobody named.

    `private_providers`: those that the host's configuration places at private addresses.
    """
    weakenings = _weakenings(policy, private_providers)
    return tuple(
        Problem(source_of(policy.sources, key), key, message)
        for key, message in (*_endpoints(policy), *_secrets(policy), *weakenings)
    )


def _endpoints(policy: Policy) -> Iterator[tuple[str, str]]:
    for endpoint in policy.endpoints:
        key = f"network.endpoints.{endpoint.provider}"
        if endpoint.repos is not None:
            if endpoint.paths is not None:
                yield f"{key}.paths", "a hub has `repos` and `files`, and no paths"
        elif endpoint.paths is None:
            yield key, "no `paths`: name what may be asked of this provider; `[]` is nothing"


def _secrets(policy: Policy) -> Iterator[tuple[str, str]]:
    providers = {endpoint.provider for endpoint in policy.endpoints}
    variables: dict[str, str] = {}
    for secret in policy.secrets:
        key = f"secrets.{secret.name}"
        if secret.how == "gateway":
            if secret.provider not in providers and not policy.tools.allow:  # of which one may be for it
                yield key, f"it is bound to {secret.provider!r}, which is none of [network.endpoints]"
            if secret.variable:
                yield f"{key}.variable", 'only a secret with `how = "env"` has a variable'
            continue
        if secret.provider:
            yield f"{key}.provider", 'only a secret with `how = "gateway"` is bound to a provider'
        if not secret.variable:
            yield key, '`how = "env"` needs `variable`, the name under which the bridge finds it'
        elif secret.variable in variables:
            yield f"{key}.variable", f"{secret.variable} is taken by secrets.{variables[secret.variable]}"
        else:
            variables[secret.variable] = secret.name


def _weakenings(policy: Policy, private_providers: Collection[str]) -> Iterator[tuple[str, str]]:
    for key, weakening, rule in demanded(policy, private_providers):
        if weakening not in policy.weakenings:
            yield key, f'{rule} demands the weakening "{weakening}", which `weakenings` does not name'


def demanded(policy: Policy, private_providers: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """(key, weakening, what it is) of every rule that only works with a weakening."""
    for endpoint in policy.endpoints:
        if endpoint.provider in private_providers:
            yield (
                f"network.endpoints.{endpoint.provider}",
                "private_network",
                "a private provider",
            )
    for secret in policy.secrets:
        if secret.how == "env":
            yield f"secrets.{secret.name}.how", "env_secret", "a key inside of the sandbox"
    for index, connect in enumerate(policy.connects):
        yield f"network.connect[{index}]", "connect", "a tunnel"
        if connect.private:
            yield f"network.connect[{index}]", "private_network", "a private address"
    if policy.devices:
        yield "filesystem.devices", "devices", "a device"
    if policy.inline_keys == "pass":
        yield "inline_keys", "inline_keys_pass", "passing keys through"
