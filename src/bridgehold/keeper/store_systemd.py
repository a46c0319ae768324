"""systemd credentials: ``$CREDENTIALS_DIRECTORY/TENANT.NAME``, read only.

``NAME`` alone belongs to the tenant ``local``. Names have no dot, so the two can't be confused.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from bridgehold.errors import SecretError
from bridgehold.ids import LOCAL_TENANT, is_name

_CREDENTIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_BOUND = 64 * 1024
_HINT = "Name it in the unit: LoadCredentialEncrypted=NAME (docs/how-to/keys.md)."


class CredentialStore:
    """What the service manager handed to this service, and nothing else."""

    kind = "systemd"

    def __init__(self, directory: str) -> None:
        if not directory:
            raise SecretError("this process has no $CREDENTIALS_DIRECTORY", hint=_HINT)
        self._directory = directory

    def get(self, tenant: str, name: str) -> bytearray | None:
        """As `SecretStore.get`, from the credential's file, without the line end that an editor adds."""
        for file in self._files(tenant, name):
            if (Path(self._directory) / file).is_file():
                return bytearray(read_credential(self._directory, file).rstrip(b"\r\n"))
        return None

    def set(self, tenant: str, name: str, value: bytes) -> None:
        """Always raises `SecretError`: systemd alone gives credentials."""
        raise SecretError("systemd credentials are read only", hint=_HINT)

    def remove(self, tenant: str, name: str) -> None:
        """Always raises `SecretError`: systemd alone gives credentials."""
        raise SecretError("systemd credentials are read only", hint="Take it out of the unit and restart.")

    def names(self) -> tuple[tuple[str, str], ...]:
        """(tenant, name) of each credential of the unit. Raises `SecretError`."""
        try:
            files = sorted(os.listdir(self._directory))  # noqa: PTH208 - names are all that is wanted
        except OSError as error:
            raise SecretError(f"can't be listed: {error.strerror}", where=self._directory) from error
        found = []
        for file in files:
            tenant, dot, name = file.partition(".")
            pair = (tenant, name) if dot else (str(LOCAL_TENANT), tenant)
            if is_name(pair[0]) and is_name(pair[1]):
                found.append(pair)
        return tuple(sorted(set(found)))

    @staticmethod
    def _files(tenant: str, name: str) -> tuple[str, ...]:
        return (f"{tenant}.{name}", name) if tenant == LOCAL_TENANT else (f"{tenant}.{name}",)


def read_credential(directory: str, name: str) -> bytes:
    """The credential's bytes. Raises `SecretError` where there is none."""
    if not directory or not _CREDENTIAL.fullmatch(name):
        raise SecretError(f"no systemd credential {name[:80]!r} here", hint=_HINT)
    path = Path(directory) / name
    try:
        with path.open("rb") as file:
            data = file.read(_BOUND + 1)
    except OSError as error:
        raise SecretError(f"can't be read: {error.strerror}", where=str(path), hint=_HINT) from error
    if len(data) > _BOUND:
        raise SecretError(f"has more than {_BOUND} bytes", where=str(path))
    return data
