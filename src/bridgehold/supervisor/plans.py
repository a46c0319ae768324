"""What each of the processes is started with: module, uid, configuration (pure but for paths)."""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

import msgspec

from bridgehold import clock
from bridgehold.audit.beginning import JournalConfig
from bridgehold.audit.writer import Limits
from bridgehold.config.http import HttpConfig
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config, own_variables
from bridgehold.config.machine import package_folder, real_folders
from bridgehold.host.startup import MOST_CELLS, HostConfig
from bridgehold.keeper.values import keeper_config
from bridgehold.policies.model import MIB
from bridgehold.policies.units import parse_size
from bridgehold.sandbox.attest.view import covering
from bridgehold.sandbox.launcher.given import LauncherConfig
from bridgehold.sandbox.spec import prefix_of

INTERPRETER_FLAGS = ("-P",)
"""No script folder on the path; the environment is set here, so ``-I`` would only lose the venv's."""
_ROLE_COUNT = 4
"""At the beginning of the range; who sends the audit away has its last one."""
_LEAVING_CELLS = 64
"""That keep their uid though others have their places: until the kernel is done with them."""
MODULES = {
    "launcher": "bridgehold.sandbox.launcher.main",
    "host": "bridgehold.host.main",
    "keeper": "bridgehold.keeper.main",
    "journal": "bridgehold.audit.journal",
    "http": "bridgehold.faces.http.main",
}


class Roles(msgspec.Struct, frozen=True, kw_only=True):
    """Kernel uids of the unprivileged processes. An ordinary user's all share its own."""

    host: int
    keeper: int
    journal: int
    http: int
    push: int
    """Of who sends the audit away; the last of the reserved range."""


class ProcessPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How one process is started: its module, its configuration on a descriptor, its whole environment."""

    module: str
    config: bytes
    environment: dict[str, str]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The processes of a host, and the uids that they run as."""

    roles: Roles
    launcher: ProcessPlan
    host: ProcessPlan
    keeper: ProcessPlan
    journal: ProcessPlan
    http: ProcessPlan
    """Started only where HTTP is served."""


def roles(config: Config) -> Roles:
    """The first of the reserved range for root, the caller's own uid otherwise."""
    if os.getuid() != 0:
        own = os.getuid()
        return Roles(host=own, keeper=own, journal=own, http=own, push=own)
    base = config.host.uid_base
    last = base + config.host.uid_count - 1
    return Roles(host=base, keeper=base + 1, journal=base + 2, http=base + 3, push=last)


def needed_paths(layout: Layout, config: Config) -> list[Path]:
    """Every folder that the unprivileged roles and the sandboxes must reach."""
    return [
        *(Path(folder) for one in config.bridges.values() for folder in one.scripts),
        *(Path(entry) for entry in sys.path if entry and Path(entry).exists()),
        Path(sys.prefix),
        Path(sys.base_prefix),
        package_folder("bridgehold"),
        package_folder("bridgehold_sdk"),
        layout.config,
        layout.state,
        layout.environments,  # may be a link: a host to play with uses its user's
        layout.run,
    ]


def hidden(layout: Layout, config: Config, folders: tuple[str, ...]) -> tuple[str, ...]:
    """Which of `folders` a host of root's has covered that was started with `config`.

    They lie beside what it needs, below a folder that is closed to others: its next start shows them.
    """
    if os.getuid() != 0:
        return ()
    plan = covering(needed_paths(layout, config))
    return tuple(
        folder
        for folder in folders
        for closed, shown in plan.items()
        if Path(folder).is_relative_to(closed) and not any(Path(folder).is_relative_to(one) for one in shown)
    )


def plan(
    layout: Layout, config: Config, *, service: bool, credentials: str = "", lasting: bool = False
) -> Plan:
    """Everything the supervisor starts. `credentials`: systemd's folder, as the keeper may read it.

    `service`: it is nobody's private host. `lasting`: the listening sockets are systemd's.
    """
    who = roles(config)
    cells = has_cells(config, service=service)
    environment = _environment()
    fetching = environment | _kept(_FETCH_VARIABLES)
    return Plan(
        roles=who,
        launcher=ProcessPlan(
            module=MODULES["launcher"],
            config=msgspec.json.encode(launcher_config(layout, config, cells=cells)),
            environment=environment,
        ),
        host=ProcessPlan(
            module=MODULES["host"],
            config=msgspec.json.encode(
                HostConfig(
                    config=str(layout.config),
                    state=str(layout.state),
                    run=str(layout.run),
                    owner_uid=os.getuid(),
                    supervisor=os.getpid(),
                    face_uid=who.http if who.http != who.host else None,
                    overrides=own_variables(os.environ),
                    cells=cells,
                    lasting=lasting,
                )
            ),
            environment=fetching | _KEEPS_MEMORY,
        ),
        keeper=ProcessPlan(
            module=MODULES["keeper"],
            config=msgspec.json.encode(
                keeper_config(layout, config, credentials_directory=credentials, lasts=service)
            ),
            environment=_keeper_environment(environment),
        ),
        journal=ProcessPlan(
            module=MODULES["journal"],
            config=msgspec.json.encode(
                JournalConfig(
                    folder=str(layout.audit),
                    anchors=str(layout.anchors),
                    limits=Limits(tenant_quota_bytes=parse_size(config.host.audit_tenant_quota)),
                )
            ),
            environment=environment,
        ),
        http=ProcessPlan(
            module=MODULES["http"],
            config=msgspec.json.encode(http_config(layout, config)),
            environment=environment,
        ),
    )


def has_cells(config: Config, *, service: bool) -> bool:
    """Whether each tenant is served by a process of its own (pure). `service`: as of `plan`."""
    return service if config.host.cells == "auto" else config.host.cells


def http_config(layout: Layout, config: Config) -> HttpConfig:
    """What the HTTP face is started with, from the operator's `[http]` section."""
    section = config.http
    return HttpConfig(
        socket=str(layout.tokens_socket),
        supervisor=os.getpid(),
        names=section.names,
        connections=section.connections,
        requests=section.requests,
        body_bytes=parse_size(section.body),
        buffered_bytes=parse_size(section.buffered),
        idle_s=section.idle_s,
        body_s=section.body_s,
        beat_s=section.beat_s,
        read_s=section.read_s,
    )


def launcher_config(layout: Layout, config: Config, *, cells: bool = False) -> LauncherConfig:
    """What the launcher is started with: the folders that it may show, uids and limits."""
    return LauncherConfig(
        read_roots=tuple(
            dict.fromkeys(
                [
                    str(layout.environments),
                    str(layout.wheels),
                    str(layout.bridges),
                    str(layout.tenants),
                    str(layout.quarantine),
                    str(package_folder("bridgehold")),
                    str(package_folder("bridgehold_sdk")),
                    os.path.realpath(sys.base_prefix),
                    os.path.realpath(sys.prefix),
                    *map(prefix_of, config.host.pythons),
                    *config.host.read_roots,
                    *(path for one in config.bridges.values() for path in real_folders(one.scripts)),
                ]
            )
        ),
        devices=config.host.devices,
        build_root=str(layout.environments),
        uid_folder=str(layout.uids),
        uid_first=config.host.uid_base + _ROLE_COUNT,
        uid_count=config.host.uid_count - _ROLE_COUNT - 1,
        cgroup=config.host.cgroup,
        reserve_bytes=config.reserve_bytes(),
        overcommit=config.host.overcommit,
        host_uid=roles(config).host,
        cells=MOST_CELLS + _LEAVING_CELLS if cells else 0,
        shared_uid=config.host.shared_uid,
    )


def _environment() -> dict[str, str]:
    """An allow-list: nothing of the caller's environment reaches a process but what Python needs.

    Where our packages are a user's own (``pip --user``) or in a folder that PYTHONPATH names, PYTHONPATH says
    so in full: some of our processes have no home, or stand elsewhere.
    """
    kept = (
        "PATH",
        "LANG",
        "LC_ALL",
        "TZ",
        "HOME",
        "XDG_RUNTIME_DIR",
        "PYTHONDONTWRITEBYTECODE",
    )
    named = {
        str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry
    }
    places = [entry for entry in sys.path if entry in named | {site.USER_SITE}]
    path = {"PYTHONPATH": os.pathsep.join(places)} if places else {}
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        **_kept(kept),
        **path,
        clock.VARIABLE: clock.ONE.told(),
    }


_KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(8 * MIB), "MALLOC_TRIM_THRESHOLD_": str(32 * MIB)}
"""For glibc, of the host: a file's part takes the memory of the one before, and not new pages each time."""
_FETCH_VARIABLES = (
    *(f"UV_{name}" for name in ("DEFAULT_INDEX", "INDEX_URL", "INDEX", "EXTRA_INDEX_URL", "FIND_LINKS")),
    *(
        f"PIP_{name}"
        for name in ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "CERT", "CONFIG_FILE")
    ),
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"),
    "XDG_CONFIG_HOME",
)
"""What says where packages come from: for the process that fetches wheels, which holds no key."""


def _kept(names: tuple[str, ...]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def push_environment() -> dict[str, str]:
    """As the keeper's, and where systemd has laid credentials: it reads the keys of its sinks itself."""
    return _keeper_environment(_environment()) | _kept(("CREDENTIALS_DIRECTORY",))


def _keeper_environment(environment: dict[str, str]) -> dict[str, str]:
    """The keeper may also find the session bus of a desktop's key ring."""
    kept = ("DBUS_SESSION_BUS_ADDRESS", "SSL_CERT_FILE", "SSL_CERT_DIR")
    return environment | _kept(kept)
