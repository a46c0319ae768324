"""Keys that a caller puts in its arguments: captured, refused or passed, as the policy says.

``capture``: the value becomes a session-scoped secret of the keeper, and the placeholder that the
gateway knows goes on in its place. The host's copy lives only as long as the request.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import SecretChanged
from bridgehold.errors import DeniedError
from bridgehold.host.boots import StartOrder
from bridgehold.host.starts import LiveWorker
from bridgehold.policies.model import Grant

KEY_NAMES = frozenset({"api_key", "apikey", "api-key", "access_token", "auth_token", "authorization"})
_DEPTH = 4


class Arguments(msgspec.Struct, frozen=True, kw_only=True):
    """`kept` has every inline key replaced; `keys` holds (path, value) of what was taken out."""

    kept: dict[str, object]
    keys: tuple[tuple[tuple[str, ...], str], ...] = ()

    def __repr__(self) -> str:
        return f"Arguments({len(self.kept)} kept, {len(self.keys)} inline keys)"


class SessionSecrets(Protocol):
    async def put_session_secret(self, session: str, provider: str, value: str) -> None: ...


class _Holder(Protocol):
    id: str
    current_command: str
    current_principal: str
    order: StartOrder
    worker: LiveWorker


def take_inline_keys(arguments: dict[str, object], grant: Grant) -> Arguments:
    """Take inline keys out of `arguments` (pure). Raises `DeniedError` under ``refuse``."""
    if grant.inline_keys == "pass":
        return Arguments(kept=arguments)
    split = split_keys(arguments)
    if split.keys and grant.inline_keys == "refuse":
        path = ".".join(split.keys[0][0])
        raise DeniedError(
            f"the argument {path} holds a key, and the policy refuses keys in arguments",
            hint="Leave it out: the gateway puts the tenant's own key in (`bridgehold secrets set`).",
        )
    return split


def split_keys(arguments: dict[str, object]) -> Arguments:
    """What is a key in `arguments`, and all that is not (pure)."""
    found: list[tuple[tuple[str, ...], str]] = []
    kept = _walk(arguments, (), found)
    assert isinstance(kept, dict)  # noqa: S101 - a dict walks to a dict
    return Arguments(kept=kept, keys=tuple(found))


def _walk(value: object, path: tuple[str, ...], found: list[tuple[tuple[str, ...], str]]) -> object:
    if not isinstance(value, dict) or len(path) >= _DEPTH:
        return value
    kept: dict[str, object] = {}
    for key, item in value.items():
        if key.lower() in KEY_NAMES and isinstance(item, str) and item and not item.startswith("sk-bh-"):
            found.append(((*path, key), item))
            continue
        kept[key] = _walk(item, (*path, key), found)
    return kept


class KeyKeeper:
    """Hands captured keys to the keeper, bound to the session and to its one granted provider."""

    def __init__(self, secrets: SessionSecrets, journal: JournalClient) -> None:
        self._secrets = secrets
        self._journal = journal

    async def capture(self, session: _Holder, arguments: Arguments) -> dict[str, object]:
        """The arguments to send on. Raises `DeniedError` where the key's provider is ambiguous."""
        for path, value in arguments.keys:
            provider = _provider(session.order.grant, arguments.kept, path)
            await self._secrets.put_session_secret(session.id, provider, value)
            captured = SecretChanged(
                tenant=session.order.grant.tenant,
                principal=session.current_principal,
                session=session.id,
                command=session.current_command,
                name=provider,
                action="captured",
                store="session",
            )
            await self._journal.append(captured)
        return arguments.kept


def _provider(grant: Grant, kept: dict[str, object], path: tuple[str, ...]) -> str:
    granted = [endpoint.provider for endpoint in grant.endpoints]
    named = kept.get("provider")
    if isinstance(named, str) and named in granted:
        return named
    if len(granted) == 1:
        return granted[0]
    raise DeniedError(
        f"the key in {'.'.join(path)} belongs to no provider that is granted",
        hint="Name the provider in the arguments; `bridgehold policy explain` lists what is granted.",
    )
