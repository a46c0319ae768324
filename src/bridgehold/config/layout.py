"""Where files live: configuration, state, runtime. One documented layout for a service and a user.

``BRIDGEHOLD_HOME=DIR`` puts all three below DIR. Otherwise root uses /etc, /var/lib and /run, and
an ordinary user the XDG folders. `docs/reference/files.md` is the same table for people.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bridgehold.reads import home_of

HOME_VARIABLE = "BRIDGEHOLD_HOME"


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Where a host's files lie: what the operator writes, what the host keeps, what is gone at its end."""

    config: Path
    state: Path
    run: Path

    @property
    def config_file(self) -> Path:
        """The operator's settings."""
        return self.config / "config.toml"

    @property
    def policies(self) -> Path:
        """One policy for each bridge: ``NAME.toml``."""
        return self.config / "policies"

    @property
    def tenants(self) -> Path:
        """A folder for each tenant: its ceiling, policies and bridges of its own."""
        return self.config / "tenants"

    @property
    def tools(self) -> Path:
        """Modules of the operator's functions that bridges may call."""
        return self.config / "tools"

    @property
    def tokens(self) -> Path:
        """What each token may, by its name, and its digest."""
        return self.config / "tokens"

    @property
    def bridges(self) -> Path:
        """A folder for each bridge beside the shipped ones."""
        return self.config / "bridges"

    def own_bridges(self, tenant: str) -> Path:
        """The bridges that are this tenant's alone."""
        return self.tenants / tenant / "bridges"

    @property
    def audit(self) -> Path:
        """A folder of journals, one for each host instance."""
        return self.state / "audit"

    @property
    def environments(self) -> Path:
        """Installers write in build folders of it, and nowhere else on the host's disk."""
        return self.state / "envs"

    @property
    def wheels(self) -> Path:
        """Downloaded wheels by digest: what environments are built from."""
        return self.state / "wheels"

    @property
    def secrets(self) -> Path:
        """The secrets' index and, with the file store, their values."""
        return self.state / "secrets"

    @property
    def anchors(self) -> Path:
        """Signed anchors of the audit, to be copied elsewhere."""
        return self.state / "anchors"

    @property
    def proposals(self) -> Path:
        """Rules that somebody asked for; the host's alone."""
        return self.state / "proposals"

    @property
    def audit_index(self) -> Path:
        """By what the host answers questions to the audit: disposable, and the host's alone."""
        return self.state / "audit-index"

    @property
    def push(self) -> Path:
        """Where each sink of the audit stands."""
        return self.state / "push"

    @property
    def artifacts(self) -> Path:
        """By tenant and digest; the host's alone."""
        return self.state / "artifacts"

    @property
    def quarantine(self) -> Path:
        """Bridges that tenants have submitted, by tenant; the host's alone."""
        return self.state / "quarantine"

    @property
    def socket(self) -> Path:
        """The unix socket for callers that are known by their uid or a token."""
        return self.run / "host.sock"

    @property
    def tokens_socket(self) -> Path:
        """Where a process that serves others connects: only a token makes a principal there."""
        return self.run / "tokens.sock"

    @property
    def uids(self) -> Path:
        """Locks on the kernel uids that sandboxes of this machine use."""
        return self.run / "uids"


def find_layout(environ: Mapping[str, str], uid: int) -> Layout:
    """The layout that `environ` and the caller's `uid` select (pure but for what `home_of` looks up)."""
    home = environ.get(HOME_VARIABLE, "")
    if home:
        base = Path(home).absolute()
        return Layout(config=base / "config", state=base / "state", run=base / "run")
    if uid == 0:
        return Layout(
            config=Path("/etc/bridgehold"), state=Path("/var/lib/bridgehold"), run=Path("/run/bridgehold")
        )
    return _of_user(environ, uid)


def _of_user(environ: Mapping[str, str], uid: int) -> Layout:
    user = home_of(environ, uid)
    config = Path(environ.get("XDG_CONFIG_HOME", "") or user / ".config") / "bridgehold"
    state = Path(environ.get("XDG_DATA_HOME", "") or user / ".local/share") / "bridgehold"
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    run = Path(runtime) / "bridgehold" if runtime else state / "run"
    return Layout(config=config, state=state, run=run)


def unread(environ: Mapping[str, str], uid: int) -> tuple[Path, ...]:
    """Where else people look for a config.toml that is then not read: the machine's and one's own folder."""
    used = find_layout(environ, uid).config_file
    plain = {name: text for name, text in environ.items() if name != HOME_VARIABLE}
    places = (find_layout(plain, 0).config_file, _of_user(plain, uid).config_file)
    return tuple(path for path in places if path != used)


def default_layout() -> Layout:
    """The layout that this process's environment variables and user id lead to."""
    return find_layout(os.environ, os.getuid())
