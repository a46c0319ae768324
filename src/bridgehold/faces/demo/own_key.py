"""Whether the user keeps a real provider key: then the demo's dspy works with the real provider.

The key itself is never read here. The demo's layout gets a copy of the user's own encrypted store
(or names the same keyring back-end), which only the demo's keeper opens.
"""

from __future__ import annotations

import msgspec

from bridgehold import writes
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config, load_config
from bridgehold.errors import BridgeholdError
from bridgehold.ids import LOCAL_TENANT
from bridgehold.keeper.admin import SecretAdmin

_FILES = ("index.json", "secrets.crypt", "secrets.key")
SECRET = "openai"  # noqa: S105 - a name, not a value


class OwnKey(msgspec.Struct, frozen=True, kw_only=True):
    """The user's provider as its own configuration has it."""

    base_url: str
    private: bool
    config: Config
    layout: Layout


def find_own_key(layout: Layout) -> OwnKey | None:
    """The provider whose key stands in the user's own store, or None."""
    try:
        config = load_config(layout.config_file)
        if config.secrets.store == "systemd" or not layout.secrets.is_dir():
            return None
        kept = SecretAdmin.for_layout(layout, config).list()
    except (BridgeholdError, OSError):
        return None
    if not any((reference.tenant, reference.name) == (LOCAL_TENANT, SECRET) for reference in kept):
        return None
    section = config.providers[SECRET]
    return OwnKey(base_url=section.base_url, private=section.private, config=config, layout=layout)


def lend(own: OwnKey, demo: Layout) -> None:
    """Let the demo's keeper open what the user's keeper opens."""
    writes.make_folder(demo.secrets, mode=0o700)
    for name in _FILES:
        source = own.layout.secrets / name
        if source.exists():
            writes.replace(demo.secrets / name, source.read_bytes(), mode=0o600)
