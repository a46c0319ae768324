"""``token.*``: what operators do to tokens while the host runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from bridgehold import clock
from bridgehold.errors import BridgeholdError, NotFoundError, UsageError
from bridgehold.host.admin_log import AdminLog
from bridgehold.host.front.method import Method
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.front.tenants import TokenFiles
from bridgehold.ids import parse_name
from bridgehold.policies import tokens
from bridgehold.policies.tables import format_time
from bridgehold.policies.tokens import Scope, Token, digest_of, new_token
from bridgehold.protocol.frames import NoParams
from bridgehold.protocol.tenants import CreateTokenParams, NameParams, NewToken, RotateParams, TokenInfo
from bridgehold.protocol.values import Principal

_BY_HAND = (
    "It makes nobody, but only until this host restarts: that is in no file yet. Before that revoke it "
    "again, or remove its file by hand."
)


class TokenAdmin:
    """The handlers. One per host."""

    def __init__(
        self,
        files: TokenFiles,
        log: AdminLog,
        demand_tenant: Callable[[str], None],
        look_up_again: Callable[[], Awaitable[None]],
    ) -> None:
        """`demand_tenant`: raises unless there is such a tenant, and it is active. `look_up_again`: who is
        connected may be somebody else now, or nobody."""
        self._tokens = files
        self._log = log
        self._demand_tenant = demand_tenant
        self._look_up_again = look_up_again

    def table(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "token.create": Method(CreateTokenParams, self.create_token, operator=True),
            "token.list": Method(NoParams, self.list_tokens, operator=True),
            "token.rotate": Method(RotateParams, self.rotate, operator=True),
            "token.revoke": Method(NameParams, self.revoke_token, operator=True),
        }

    async def create_token(self, principal: Principal, params: CreateTokenParams, _emit: Emit) -> NewToken:
        """The token itself is in this answer, and nowhere else."""
        name = parse_name(params.name, "token")
        scope = Scope(
            tenants=params.tenants,
            bridges=params.bridges,
            operations=params.operations,
            read_only=params.read_only,
            logs=params.logs,
        )
        if faults := tokens.faults(scope):
            raise UsageError("; ".join(f"{key}: {what}" for key, what in faults))

        def demand() -> None:
            for tenant in scope.tenants:
                self._demand_tenant(tenant)

        demand()
        expires = clock.now() + params.expires_s if params.expires_s else 0.0
        secret = new_token(name)
        token = Token(
            name=name,
            digest=digest_of(secret),
            scope=scope,
            expires=float(int(expires)),
            by=principal.name,
            at=format_time(clock.now()),
        )

        async def act() -> NewToken:
            await self._tokens.add(token, demand)  # one of them may be revoked meanwhile
            return _new(token, secret)

        details = {**msgspec.to_builtins(scope), "expires": format_time(token.expires)}
        return await self._log.audited(principal, "token.create", name, details, act)

    async def list_tokens(self, _principal: Principal, _params: NoParams, _emit: Emit) -> list[TokenInfo]:
        """Those of files; a digest in `config.toml` has no name of its own."""
        return [info_of(self._tokens, name) for name in self._tokens.names()]

    async def rotate(self, principal: Principal, params: RotateParams, _emit: Emit) -> NewToken:
        """Another secret; the one before is worth nothing from here on, or after `grace_s`."""
        name = parse_name(params.name, "token")
        secret, grace = new_token(name), params.grace_s

        def edit(token: Token) -> Token:
            return msgspec.structs.replace(
                token,
                digest=digest_of(secret),
                previous=token.digest if grace else "",
                previous_until=float(int(clock.now() + grace)) if grace else 0.0,
                by=principal.name,
                at=format_time(clock.now()),
            )

        async def act() -> NewToken:
            token = await self._tokens.change(name, edit)
            await self._look_up_again()
            return _new(token, secret)

        return await self._log.audited(principal, "token.rotate", name, {"grace_s": grace}, act)

    async def revoke_token(self, principal: Principal, params: NameParams, _emit: Emit) -> dict[str, str]:
        """Whoever is connected by it loses the connection, and what runs on it.

        Raises why its file could not be removed; it makes nobody all the same, until this host ends.
        """
        name = parse_name(params.name, "token")

        async def act() -> dict[str, str]:
            fault: BridgeholdError | None = None
            try:
                await self._tokens.remove(name)
            except NotFoundError:
                raise
            except BridgeholdError as error:
                self._tokens.hold(name)
                error.hint = _BY_HAND
                fault = error
            await self._look_up_again()
            if fault is not None:
                raise fault
            return {"name": name}

        return await self._log.audited(principal, "token.revoke", name, {}, act)


def info_of(files: TokenFiles, name: str) -> TokenInfo:
    """For operators: also of one whose file is broken."""
    if files.holds(name):
        return TokenInfo(name=name, state="broken", reason="it is revoked, but its file could not be removed")
    try:
        return _token_info(files.of(name))
    except BridgeholdError as error:
        return TokenInfo(name=name, state="broken", reason=error.message)


def _token_info(token: Token) -> TokenInfo:
    over = bool(token.expires) and clock.now() >= token.expires
    return TokenInfo(
        name=token.name,
        state="expired" if over else "valid",
        tenants=token.scope.tenants,
        bridges=token.scope.bridges,
        operations=token.scope.operations,
        read_only=token.scope.read_only,
        logs=token.scope.logs,
        expires=format_time(token.expires),
        by=token.by,
        at=token.at,
    )


def _new(token: Token, secret: str) -> NewToken:
    return NewToken(**msgspec.structs.asdict(_token_info(token)), token=secret)
