"""Who asks: peer uid or token → principal → the tenants it may act for.

`tenant=` in a request selects within that set and asserts nothing. The host's own user and root
are operators; everybody else needs a line in ``config.toml``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from bridgehold import clock
from bridgehold.config.sections import PrincipalSection
from bridgehold.errors import DeniedError
from bridgehold.host.front.tenants import TokenFiles, unknown_token
from bridgehold.protocol.values import Principal


class Principals:
    """The configured principals. Lookup by token compares digests in constant time."""

    def __init__(
        self,
        sections: Mapping[str, PrincipalSection],
        owner_uid: int,
        face_uid: int | None = None,
        tokens: TokenFiles | None = None,
    ) -> None:
        """`face_uid`: the kernel uid of a process that speaks for others; it is nobody itself. `tokens`:
        those with files of their own, beside the sections' digests."""
        self._tokens = tokens
        self._sections = dict(sections)
        self._owner_uid = owner_uid
        self._face_uid = face_uid

    def replace(self, sections: Mapping[str, PrincipalSection]) -> None:
        """From now on these; who is connected has to be looked up again."""
        self._sections = dict(sections)

    def by_uid(self, uid: int) -> Principal:
        """The principal of a local user. Raises `DeniedError` where there is no mapping."""
        if uid == self._face_uid:
            raise DeniedError("the process that serves HTTP is nobody without a caller's token", hint="")
        for name, section in self._sections.items():
            if uid in section.uids:
                return _principal(name, section)
        if uid in (0, self._owner_uid):
            return Principal(name="owner", tenants=("*",), operator=True)
        raise DeniedError(
            f"local user {uid} is nobody here",
            where="config.toml: principals",
            hint=f"An operator can add `uids = [{uid}]` and tenants to a [principals.NAME] section.",
        )

    def by_token(self, token: str) -> Principal:
        """The principal of a token. Every configured digest is compared, whatever matches first."""
        if not token:
            raise DeniedError("no token was given", hint="Ask the operator for a token.")
        digest = "sha256:" + hashlib.sha256(token.encode()).hexdigest()
        found: Principal | None = None
        for name, section in self._sections.items():
            for known in section.tokens:
                if hmac.compare_digest(known, digest):
                    found = _principal(name, section)
        if found is None and self._tokens is not None:
            found = self._tokens.principal(token, clock.now())
        if found is None:
            raise unknown_token()
        return found


def _principal(name: str, section: PrincipalSection) -> Principal:
    return Principal(name=name, tenants=section.tenants, operator=section.operator, logs=section.logs)
