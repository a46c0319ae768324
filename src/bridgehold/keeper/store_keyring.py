"""A desktop's keyring: the Secret Service, pinned. keyring's own choice of back-end is never used.

Left to itself, keyring takes a plaintext file where one is installed, a null back-end that forgets
what it is given, or whatever ``keyringrc.cfg`` puts on the import path.
"""

from __future__ import annotations

from keyring.backend import KeyringBackend
from keyring.errors import KeyringError, PasswordDeleteError

from bridgehold.errors import SecretError

SERVICE = "bridgehold"
_HINT = (
    "A system service has no session bus: set `[secrets] store` to `file` or `systemd`, "
    "or unlock the desktop's keyring."
)


class KeyringStore:
    """Secrets in one pinned keyring back-end, under the service ``bridgehold``."""

    kind = "keyring"

    def __init__(self, backend: KeyringBackend) -> None:
        self._backend = backend

    @classmethod
    def secret_service(cls) -> KeyringStore:
        """The Secret Service of this session's bus. Raises `SecretError` where there is none."""
        from keyring.backends import SecretService

        try:
            SecretService.Keyring.priority  # noqa: B018 - asking for it is keyring's test of the bus
        except (KeyringError, RuntimeError, OSError, ValueError, KeyError) as error:
            why = str(error) or type(error).__name__
            raise SecretError(f"no Secret Service here: {why}", hint=_HINT) from error
        return cls(SecretService.Keyring())  # type: ignore[no-untyped-call]  # keyring is half typed

    def get(self, tenant: str, name: str) -> bytearray | None:
        """As `SecretStore.get`, from the desktop's keyring."""
        try:
            value = self._backend.get_password(SERVICE, f"{tenant}/{name}")
        except (KeyringError, RuntimeError, OSError) as error:
            raise _broken(error) from None
        return None if value is None else bytearray(value.encode("ascii", "replace"))

    def set(self, tenant: str, name: str, value: bytes) -> None:
        """As `SecretStore.set`; it is read back, since some keyrings take a value and keep none."""
        try:
            self._backend.set_password(SERVICE, f"{tenant}/{name}", value.decode("ascii"))
            kept = self._backend.get_password(SERVICE, f"{tenant}/{name}")
        except (KeyringError, RuntimeError, OSError) as error:
            raise _broken(error) from None
        if kept is None or kept.encode("ascii", "replace") != value:
            raise SecretError("the keyring took the secret and does not give it back", hint=_HINT)

    def remove(self, tenant: str, name: str) -> None:
        """As `SecretStore.remove`."""
        try:
            self._backend.delete_password(SERVICE, f"{tenant}/{name}")
        except PasswordDeleteError:
            return
        except (KeyringError, RuntimeError, OSError) as error:
            raise _broken(error) from None

    def names(self) -> None:
        """None: a keyring can't list its entries, so the index has the names."""
        return


def _broken(error: Exception) -> SecretError:
    """Only the kind of failure: a back-end's own text might hold what it was given."""
    return SecretError(f"the keyring failed: {type(error).__name__}", hint=_HINT)
