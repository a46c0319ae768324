"""Sends the audit away: ``python -m bridgehold.supervisor.pushing``, begun by the supervisor.

It reads the keys of its sinks and then gives up what it may: as root's it has a uid of its own from there on,
which reads the audit by its group, and writes where its sinks stand. Nobody waits for it; the host does not
know of it.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from bridgehold import writes
from bridgehold.audit.pushing.pusher import Pusher
from bridgehold.audit.pushing.sinks import SinkConfig, open_sink
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config, load_config
from bridgehold.error_texts import to_log_text
from bridgehold.errors import BridgeholdError, ConfigError
from bridgehold.hardening import harden, leave
from bridgehold.ids import LOCAL_TENANT
from bridgehold.keeper.index import read_index
from bridgehold.keeper.stores import open_store
from bridgehold.keeper.values import store_config
from bridgehold.supervisor import plans
from bridgehold.supervisor.beside import given

PROVIDER = "push"
"""What a sink's key is bound to, so that no gateway sends it anywhere."""
_AGAIN_S = 5.0


def sinks_of(config: Config) -> list[SinkConfig]:
    """What the configuration names."""
    return [
        SinkConfig(
            name=name, kind=section.kind, to=section.to, ca=section.ca, only_anchors=section.only == "anchors"
        )
        for name, section in config.push.items()
    ]


def _secrets(layout: Layout, config: Config, credentials: str) -> dict[str, str]:
    """By sink. Raises `ConfigError` for a key that is not there, or not kept for sinks."""
    named = {name: section.secret for name, section in config.push.items() if section.secret}
    if not named:
        return {}
    stored = store_config(layout, config, credentials_directory=credentials)
    store, index, found = open_store(stored), read_index(layout.secrets), {}
    for sink, name in named.items():
        kept = index.find(LOCAL_TENANT, name)
        value = store.get(LOCAL_TENANT, name) if kept is not None and kept.provider == PROVIDER else None
        if value is None:
            raise ConfigError(
                f"push.{sink}: there is no key {name!r} for sinks",
                where=str(layout.config_file),
                hint=f"`bridgehold secrets set {name} --provider {PROVIDER}` keeps it.",
            )
        found[sink] = value.decode("ascii")
    return found


def _give_up(layout: Layout, config: Config) -> None:
    """As root's: a uid of its own, and the group that reads the audit. A sink's missing folder is made."""
    roles = plans.roles(config)
    for section in config.push.values():
        if section.kind == "folder" and not os.path.lexists(section.to):
            writes.make_folder(Path(section.to), mode=0o750)
            writes.give(Path(section.to), roles.push, roles.push, 0o750)
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(roles.host, roles.host, roles.host)
        os.setresuid(roles.push, roles.push, roles.push)
    os.umask(0o027)


def _serve(pusher: Pusher, stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            wait = pusher.step()
        except BridgeholdError as error:  # where it stands can't be written: it waits until it can
            sys.stderr.write(to_log_text(error))
            wait = _AGAIN_S
        stopped.wait(wait)


def main() -> int:
    """Serve every sink until SIGTERM. Returns the exit status."""
    layout, parent = given()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        harden(parent=parent)
        config = load_config(layout.config_file)
        keys = _secrets(layout, config, os.environ.get("CREDENTIALS_DIRECTORY", ""))
        _give_up(layout, config)
        harden(parent=parent)  # with another uid the kernel forgets what was asked of it before
        pushers = [
            Pusher(
                sink,
                functools.partial(open_sink, sink, keys.get(sink.name, ""), socket.gethostname()),
                audit=layout.audit,
                anchors=layout.anchors,
                state=layout.push,
                now=time.time,
            )
            for sink in sinks_of(config)
        ]
    except BridgeholdError as error:
        sys.stderr.write(to_log_text(error))
        return error.exit_status
    except OSError as error:
        sys.stderr.write(f"bridgehold: the audit can't be sent away: {error.strerror}\n")
        return ConfigError.exit_status
    for pusher in pushers:
        threading.Thread(target=_serve, args=(pusher, stopped), daemon=True).start()
    while not stopped.wait(3600):
        pass
    return 0


if __name__ == "__main__":
    leave(main())
