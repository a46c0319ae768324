"""Every key that a policy file may hold, as data: the loader, the documentation and `explain` read it.

``*`` in a path stands for a name that the file chooses.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from bridgehold.policies.limits_table import LIMITS, Unit
from bridgehold.policies.model import Rate, Weakening

Kind = Literal[
    "size",
    "rate",
    "duration",
    "cores",
    "count",
    "money",
    "flag",
    "choice",
    "name",
    "variable",
    "methods",
    "paths",
    "patterns",
    "fields",
    "folders",
    "devices",
    "connects",
    "repos",
    "digests",
    "weakenings",
    "extends",
]


class Key(msgspec.Struct, frozen=True):
    """One key: where it stands, what it takes, what it means."""

    path: str
    kind: Kind
    summary: str
    default: str = "none"
    options: tuple[str, ...] = ()
    takes_any: bool = False
    """Whether the word ``"any"`` may stand there: anything is allowed."""
    least: int = 0
    most: int = 2**53 - 1


WEAKENINGS: tuple[str, ...] = get_args(Weakening)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")

CONNECT_KEYS = (
    Key(
        "network.connect[].host", "name", "A host, or `*.` and a name: `*` is exactly one label.", "required"
    ),
    Key("network.connect[].port", "count", "The port.", "443", least=1, most=65_535),
    Key(
        "network.connect[].private",
        "flag",
        "Whether it may be a loopback or private address (weakening `private_network`).",
        "false",
    ),
)

_RATES = {
    "commands_per_minute": "Commands of a tenant and bridge in a minute; ten seconds' worth at once.",
    "concurrency": "Sessions of one tenant and bridge at once; what is ending counts, and is waited for.",
    "provider_requests_per_minute": "Requests of a tenant and bridge to one provider in a minute.",
    "provider_requests_total": "Requests of a tenant to one provider over the audit's life; 0 is none.",
    "provider_tokens_total": "Tokens that a tenant is charged with at one provider, likewise; 0 is none.",
    "connections_per_second": "Connections of one session to the gateway in a second.",
    "frames_per_second": "Frames that are read of one session in a second; past it the guest blocks.",
    "audit_events_per_second": "Events that a session causes in a second; past it they are counted, or wait.",
}
ANY = "any"
"""What stands in a file where anything is allowed."""

_RULES = {
    "operations": "operations, as `bridge:operation`",
    "tools": "tools of the host's side",
    "resources": "kinds of resource",
}


def _limit_keys() -> tuple[Key, ...]:
    kinds: dict[Unit, Kind] = {
        "size": "size",
        "rate": "rate",
        "duration": "duration",
        "cores": "cores",
        "count": "count",
    }
    return tuple(
        Key(
            f"limits.{fact.key}",
            kinds[fact.unit],
            fact.meaning,
            fact.default,
            least=fact.least,
            most=fact.most,
        )
        for fact in LIMITS
    )


def _rate_keys() -> tuple[Key, ...]:
    defaults = Rate()
    return tuple(
        Key(
            f"rate.{name}",
            "count",
            summary,
            ANY if default is None else str(default),
            takes_any=default is None,
            least=0 if default is None else 1,
            most=2**40,
        )
        for name, summary in _RATES.items()
        for default in [getattr(defaults, name)]
    )


def _rule_keys() -> tuple[Key, ...]:
    return tuple(
        Key(f"{table}.{verb}", "patterns", text)
        for table, what in _RULES.items()
        for verb, text in (
            ("allow", f"Patterns of {what} that are allowed; what none matches is denied."),
            ("deny", f"Patterns of {what} that are denied; deny wins over allow."),
        )
    )


VOCABULARY: tuple[Key, ...] = (
    Key("extends", "extends", "The policy that this one starts from."),
    Key(
        "inline_keys",
        "choice",
        "What becomes of a key that a caller puts into its arguments.",
        "capture",
        ("refuse", "capture", "pass"),
    ),
    Key("weakenings", "weakenings", "The named weakenings that this policy may use.", options=WEAKENINGS),
    *_limit_keys(),
    Key("filesystem.read", "folders", "Host folders that are mounted read-only, below the operator's roots."),
    Key("filesystem.devices", "devices", "Device files that are bound (weakening `devices`)."),
    Key("network.endpoints.*.methods", "methods", "Methods that the gateway forwards.", '["POST"]', METHODS),
    Key(
        "network.endpoints.*.paths",
        "paths",
        "Paths below the provider's base; `*` stands for any characters of one segment.",
    ),
    Key(
        "network.endpoints.*.remote_content",
        "flag",
        "Whether a body may have the provider fetch a URL, run a server-side tool or use stored objects.",
        "false",
    ),
    Key(
        "network.endpoints.*.fields",
        "fields",
        "What requests may hold beside inference, as their refusals name it; `*` is anything.",
    ),
    Key(
        "network.endpoints.*.repos",
        "repos",
        "Of a hub: what may be downloaded, as `OWNER/NAME` or `OWNER/NAME@REVISION`; `*` within each part.",
    ),
    Key(
        "network.endpoints.*.files",
        "paths",
        "Of a hub: files of a repo; never pickles or code.",
        '["*.json", "*.model", "*.safetensors", "*.txt"]',
    ),
    Key(
        "network.endpoints.*.digests",
        "digests",
        "Of a hub: the only SHA-256 digests that a file may have.",
        ANY,
        takes_any=True,
    ),
    Key("network.endpoints.*.file_size", "size", "Of a hub: the largest file.", "1GiB", least=1, most=2**40),
    Key(
        "network.endpoints.*.total_size",
        "size",
        "Of a hub: what one session may download.",
        "4GiB",
        least=1,
        most=2**44,
    ),
    Key("network.connect", "connects", "Hosts that may be reached by CONNECT (weakening `connect`)."),
    *CONNECT_KEYS,
    Key(
        "secrets.*.how",
        "choice",
        "`gateway`: put in on the way out. `env`: handed to the bridge (weakening `env_secret`).",
        "gateway",
        ("gateway", "env"),
    ),
    Key("secrets.*.provider", "name", "The endpoint that the secret is bound to.", "the secret's name"),
    Key("secrets.*.variable", "variable", 'The environment variable; only with `how = "env"`.'),
    *_rule_keys(),
    *_rate_keys(),
    Key("sandbox.start", "choice", "How a worker is started.", "cold", ("cold", "fork")),
    Key("sandbox.isolation", "choice", "The tier of isolation.", "namespaces", ("namespaces",)),
    Key("sandbox.seccomp", "choice", "The system call filter.", "default", ("default",)),
    Key(
        "sandbox.enforcement",
        "choice",
        "`strict`: a barrier that this machine can't give refuses the start. "
        "`weakened`: the start may use the weakenings named for it.",
        "strict",
        ("strict", "weakened"),
    ),
)

BY_PATH = {key.path: key for key in VOCABULARY}
TABLES = frozenset(
    {path.rpartition(".")[0] for path in BY_PATH if "." in path and "[" not in path}
    | {"network", "network.endpoints", "secrets"}
)
"""Paths of tables, with ``*`` for a chosen name."""


def children(table: str) -> tuple[str, ...]:
    """Names that may stand directly in `table` (``""`` is the top); ``*`` for chosen ones."""
    prefix = f"{table}." if table else ""
    paths = [*(path for path in BY_PATH if "[" not in path), *TABLES]
    found = {path[len(prefix) :].split(".")[0] for path in paths if path.startswith(prefix)}
    return tuple(sorted(found - {""}))
