"""``[needs]``: what a bridge asks for, in the policy's own words and units."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, cast

from bridgehold.ids import is_name
from bridgehold.policies.model import Connect, Endpoint, Needs, SecretGrant
from bridgehold.policies.units import parse_duration, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bridgehold.bridges.tables import Table

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
_PATH = re.compile(r"(/[A-Za-z0-9_.~:*-]+)+/?")
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,99}")

_SIZES = {
    "memory": "memory_bytes",
    "file_size": "file_size_bytes",
    "scratch": "scratch_bytes",
    "shm": "shm_bytes",
    "response": "response_bytes",
    "request": "request_bytes",
}
_COUNTS = {"processes": "processes", "open_files": "open_files"}
_TIMES = {"startup": "startup_ms", "command": "command_ms", "session": "session_ms"}
LIMIT_KEYS = (*_SIZES, *_TIMES, *_COUNTS, "cpu")


def read_needs(table: Table, bridge: str, operations: Iterable[str], resources: Iterable[str]) -> Needs:
    """The needs of a manifest; its operations and resources are asked for as they are declared."""
    needs = Needs(
        endpoints=tuple(_endpoint(item) for item in table.tables("endpoints")),
        connects=tuple(_connect(item) for item in table.tables("connects")),
        secrets=tuple(_secret(item) for item in table.tables("secrets")),
        operations=tuple(f"{bridge}:{name}" for name in operations),
        resources=tuple(resources),
        limits=_limits(table.table("limits")),
    )
    providers = [endpoint.provider for endpoint in needs.endpoints]
    if len(set(providers)) != len(providers):
        table.fault("endpoints", "one entry for each provider")
    for secret in needs.secrets:
        if secret.how == "gateway" and secret.provider not in providers:
            table.fault("secrets", f"secret {secret.name!r} is bound to no provider among the endpoints")
    table.finish()
    return needs


def _endpoint(table: Table) -> Endpoint:
    endpoint = Endpoint(
        provider=_name(table, "provider"),
        methods=table.texts("methods", default=("POST",)),
        paths=table.texts("paths") if table.has("paths") else None,
        remote_content=table.flag("remote_content"),
    )
    for method in endpoint.methods:
        if method not in _METHODS:
            table.fault("methods", f"{method[:20]!r} is none of {', '.join(_METHODS)}")
    for path in endpoint.paths or ():
        if not _PATH.fullmatch(path) or ".." in path:
            table.fault("paths", f"{path[:80]!r} is no path such as /chat/completions; '*' is one segment")
    table.finish()
    return endpoint


def _connect(table: Table) -> Connect:
    host = table.text("host", longest=253)
    if host and not _HOST.fullmatch(host):
        table.fault("host", "a host's name in lower case is expected")
    port = table.raw("port")
    if port is None:
        port = 443
    if not isinstance(port, int) or not 1 <= port <= 65_535:
        table.fault("port", "a port is expected")
        port = 443
    private = table.flag("private")
    table.finish()
    return Connect(host=host, port=port, private=private)


def _secret(table: Table) -> SecretGrant:
    how = cast("Literal['gateway', 'env']", table.choice("how", ("gateway", "env"), default="gateway"))
    secret = SecretGrant(
        name=_name(table, "name"),
        how=how,
        provider=_name(table, "provider") if how == "gateway" else "",
        variable=table.text("variable", longest=100) if how == "env" else "",
    )
    if how == "env" and secret.variable and not _VARIABLE.fullmatch(secret.variable):
        table.fault("variable", "an environment variable in upper case is expected")
    table.finish()
    return secret


def _name(table: Table, key: str) -> str:
    text = table.text(key, longest=63)
    if text and not is_name(text):
        table.fault(key, "a name in lower case is expected")
    return text


def _limits(table: Table) -> dict[str, int]:
    """Least limits by field of `policies.model.Limits`."""
    found: dict[str, int] = {}
    for keys, parse in ((_SIZES, parse_size), (_TIMES, parse_duration)):
        for key, field in keys.items():
            if table.has(key):
                found[field] = _parsed(table, key, parse)
    for key, field in _COUNTS.items():
        if table.has(key):
            found[field] = _whole(table, key)
    if table.has("cpu"):
        value = table.raw("cpu")
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1024:
            table.fault("cpu", "a number of cores is expected, such as 0.5")
        else:
            found["cpu_millis"] = int(value * 1000)
    table.finish()
    return found


def _parsed(table: Table, key: str, parse: Callable[[str], int]) -> int:
    text = table.text(key, longest=30)
    try:
        return parse(text) if text else 0
    except ValueError as error:
        table.fault(key, str(error))
        return 0


def _whole(table: Table, key: str) -> int:
    value = table.raw(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        table.fault(key, "a whole number above 0 is expected")
        return 0
    return value
