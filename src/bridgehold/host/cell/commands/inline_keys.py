"""Secrets found in request arguments: captured, refused or passed, as the policy says.

``capture``: the value becomes a session-scoped secret of the keeper, and the placeholder that the
gateway knows goes on in its place. The host's copy lives only as long as the request.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from bridgehold.audit.arguments import Arguments, left_in, shown
from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import SecretChanged
from bridgehold.errors import DeniedError
from bridgehold.policies.model import Grant

if TYPE_CHECKING:
    from bridgehold.host.cell.workers.live import LiveWorker
    from bridgehold.host.front.boots import StartOrder


_ALIASES = {"google": "gemini", "gpt": "openai", "claude": "anthropic"}
"""Of providers: what DSPex says, and what models' names begin with."""


class SessionSecrets(Protocol):
    """Where a captured key goes: the keeper."""

    async def put_session_secret(self, session: str, provider: str, value: str, *, tenant: str) -> None:
        """See `KeeperClient.put_session_secret`."""


class _Holder(Protocol):
    id: str
    current_command: str
    current_principal: str
    order: StartOrder
    worker: LiveWorker


def take_inline_keys(arguments: dict[str, object], split: Arguments, grant: Grant) -> Arguments:
    """What goes on of `arguments`, and what is taken out (pure). Raises `DeniedError` under ``refuse``.

    `split`: what was found in them.
    """
    if grant.inline_keys == "pass":
        return left_in(arguments, split)
    if split.keys and grant.inline_keys == "refuse":
        raise DeniedError(
            f"the argument {shown(split.keys[0][0])} holds a key, and the policy refuses keys in arguments",
            hint="Leave it out: the gateway puts the tenant's own key in (`bridgehold secrets set`).",
        )
    return split


class KeyKeeper:
    """Hands captured keys to the keeper, bound to the session and to its one granted provider."""

    def __init__(
        self,
        secrets: SessionSecrets,
        journal: JournalClient,
        changed: Callable[[str], None] = lambda _tenant: None,
    ) -> None:
        """`changed`: a tenant has one secret more."""
        self._secrets = secrets
        self._changed = changed
        self._journal = journal

    async def capture(
        self, session: _Holder, arguments: Arguments, *, command: str = "", principal: str = ""
    ) -> dict[str, object]:
        """The arguments to send on. Raises `DeniedError` where a key's provider is ambiguous.

        `command` and `principal`: whose they are, where it isn't the session's current one.
        """
        chosen: dict[str, str] = {}
        for path, value in arguments.keys:
            provider = _provider(session.order.grant, arguments.kept, path)
            if chosen.setdefault(provider, value) != value:
                raise DeniedError(
                    f"the arguments hold more than one key for {provider} ({shown(path)} is another)",
                    hint="A session has one key for each provider.",
                )
        for provider, value in chosen.items():
            tenant = session.order.grant.tenant
            await self._secrets.put_session_secret(session.id, provider, value, tenant=tenant)
            self._changed(tenant)
            captured = SecretChanged(
                tenant=tenant,
                principal=principal or session.current_principal,
                session=session.id,
                command=command or session.current_command,
                name=provider,
                action="captured",
                store="session",
            )
            await self._journal.append(captured)
        return arguments.kept


def _family(model: object) -> str:
    """The provider that a model's name begins with: ``openai/…`` as litellm writes it, or ``gemini-…``."""
    return re.split(r"[/-]", model, maxsplit=1)[0] if isinstance(model, str) else ""


def _provider(grant: Grant, kept: dict[str, object], path: tuple[str, ...]) -> str:
    granted = [endpoint.provider for endpoint in grant.endpoints]
    for word in (kept.get("provider"), _family(kept.get("model"))):
        named = _ALIASES.get(word, word) if isinstance(word, str) else ""
        if named in granted:
            return named
    plain = re.sub(r"[^a-z0-9]", "", path[-1].lower())
    if spelt := [one for one in granted if plain.startswith(re.sub(r"[^a-z0-9]", "", one.lower()))]:
        return max(spelt, key=len)
    if len(granted) == 1:
        return granted[0]
    raise DeniedError(
        f"the key in {shown(path)} belongs to no provider that is granted",
        hint="Name the provider in the arguments; `bridgehold policy explain` lists what is granted. "
        'What is no provider\'s key goes in with `inline_keys = "pass"` alone.',
    )
