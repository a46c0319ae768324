"""What of a gRPC worker's start goes in (pure): its arguments, its variables, and where it listens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import PurePosixPath

import msgspec

SCRIPTS = frozenset({"grpc_server.py", "grpc_server_threaded.py"})
"""Names of the scripts that speak gRPC: Snakepit's own, which its orphan sweep looks for, too."""
_ADDRESS = "--elixir-address"
_ALONE = frozenset({"--health-check", "--help", "-h"})
"""With one of these it serves nobody."""
_ADDRESSES = ("SNAKEPIT_GRPC_ADDRESS", "SNAKEPIT_ELIXIR_ADDRESS")
READY_FILE = "SNAKEPIT_READY_FILE"
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost):([0-9]{1,5})")
_PASSING = re.compile(
    r"SNAKEPIT_[A-Z0-9_]{1,60}|SNAKEBRIDGE_[A-Z0-9_]{1,60}|GRPC_(VERBOSITY|TRACE|POLL_STRATEGY|ENABLE_FORK_SUPPORT)"
    r"|(OMP|OPENBLAS|MKL|NUMEXPR)_NUM_THREADS|PYTHONUNBUFFERED"
)
_OWN = frozenset({READY_FILE, *_ADDRESSES, "SNAKEPIT_PYTHON", "SNAKEBRIDGE_VENV"})
"""Paths and addresses of the starter's machine, which the sandbox has none of."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_LONGEST = 8 * 1024
_MOST = 64


class _Told(msgspec.Struct, frozen=True, kw_only=True, tag="bridgehold_ready", forbid_unknown_fields=True):
    port: int


def is_rpc_worker(script: str, args: Sequence[str]) -> bool:
    """Whether a worker that speaks gRPC is started, which serves until it is ended."""
    return PurePosixPath(script).name in SCRIPTS and not _ALONE.intersection(args)


def callback_port(args: Sequence[str], environment: Mapping[str, str]) -> int:
    """The port on this machine's loopback at which its starter is called back; 0: none, or elsewhere."""
    given = next((environment[name] for name in _ADDRESSES if environment.get(name)), "")
    for index, word in enumerate(args):
        if word == _ADDRESS and index + 1 < len(args):
            given = args[index + 1]
        elif word.startswith(_ADDRESS + "="):
            given = word.partition("=")[2]
    found = _LOOPBACK.fullmatch(given)
    port = int(found[2]) if found else 0
    return port if 1024 <= port <= 65535 else 0


def passing(environment: Mapping[str, str], is_key: Callable[[str], bool]) -> dict[str, str]:
    """Those variables that go in: what such a worker is configured by. A secret stays outside.

    `is_key`: whether a value has the shape of a well-known key.
    """
    found = {
        name: value
        for name, value in environment.items()
        if _PASSING.fullmatch(name) and name not in _OWN
        if len(value) <= _LONGEST and "\0" not in value and not _is_secret(name, value) and not is_key(value)
    }
    return dict(sorted(found.items())[:_MOST])


def kept_back(environment: Mapping[str, str], is_key: Callable[[str], bool]) -> tuple[str, ...]:
    """Names of those that stay outside, for the audit: the secrets first."""
    left = environment.keys() - passing(environment, is_key).keys()

    def order(name: str) -> tuple[bool, str]:
        value = environment[name]
        return not (_is_secret(name, value) or is_key(value)), name

    return bounded(sorted(left, key=order))


def bounded(names: Iterable[str]) -> tuple[str, ...]:
    """Those that are a variable's name, the first of them; a caller may have sent anything."""
    return tuple(islice(filter(_NAME.fullmatch, names), _MOST))


def _is_secret(name: str, value: str) -> bool:
    from bridgehold_sdk.secret_names import is_secret  # the guest's package, which few processes need

    return is_secret(name, value)


def read_ready(body: bytes) -> int | None:
    """The port that the worker listens at, as the runner inside says it; None: some other frame."""
    try:
        port = msgspec.json.decode(body, type=_Told).port
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return port if 1 <= port <= 65535 else None
