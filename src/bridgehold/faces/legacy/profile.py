"""The files of a foreign profile, as text (pure): manifest, policy, and its section of config.toml."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bridgehold import reads
from bridgehold.config.sections import ProviderSection
from bridgehold.errors import ConfigError, PolicyError, UsageError
from bridgehold.faces.authoring.scripts import imports_of
from bridgehold.faces.legacy.families import Wire, frame_bytes
from bridgehold.policies import shipped
from bridgehold.policies.locate import locate
from bridgehold.policies.model import GIB, MIB
from bridgehold.policies.tables import rendered
from bridgehold.policies.units import exact_size, format_size

MARK = "# Written by `bridgehold shim`, which writes it anew; take this line out to keep it as it is."
"""The first line of what is ours to replace."""
_LEAST_MEMORY, _MOST_MEMORY, _STEP = 128 * MIB, GIB, 32 * MIB
_RPC_LIMITS: dict[str, object] = {"processes": 128, "grace": "5s"}
"""gRPC and what computes have a thread or more to each processor; SIGTERM waits for calls in flight."""
_NOT_WARM = frozenset({"grpc"})
"""Its threads don't come through a fork."""
_CALLED = "dspy"
"""A framework whose first call takes seconds: it is made once, before workers are forked."""
_MODULES = {"dspy-ai": "dspy", "google-generativeai": "google", "scikit-learn": "sklearn", "pyyaml": "yaml"}
"""What is imported under another name than it is asked for."""


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One that the profile may reach."""

    name: str
    shape: str
    secret: str
    private: str = ""
    """The loopback or private address that it is said to be at; empty: none."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a shim is to be given."""

    name: str
    roots: tuple[str, ...]
    """Folders of scripts, the real ones."""
    requirements: str
    """Of packages, one a line; empty: the standard library alone."""
    modules: tuple[str, ...]
    """What the scripts import of them, to be imported once for all workers."""
    providers: tuple[Provider, ...]
    workers: int
    memory_bytes: int
    start: Literal["fork", "cold"]
    wires: tuple[Wire, ...] = ()
    """What its workers speak, as their files show it."""
    tools: tuple[str, ...] = ()
    """Patterns of the starter's own tools that its workers may call back."""

    @property
    def limits(self) -> dict[str, object]:
        """Of one worker, as a policy has them."""
        most = exact_size(frame_bytes(self.wires))
        limits: dict[str, object] = {
            "memory": exact_size(self.memory_bytes),
            "request": most,
            "response": most,
        }
        return limits | (_RPC_LIMITS if "grpc" in self.wires else {})

    @property
    def concurrency(self) -> int:
        """Sessions at once: a pool starts a worker's successor while that one ends, and asks for versions."""
        return at_once(self.workers)

    @property
    def weakenings(self) -> tuple[str, ...]:
        """By name, what is weakened for it."""
        return ("private_network",) if any(one.private for one in self.providers) else ()


def at_once(workers: int) -> int:
    """Sessions that a pool of so many workers may have at once."""
    return workers + workers // 2 + 1


def memory_of(workers: int, room_bytes: int) -> int:
    """Of each worker, in bytes, where all of them together have `room_bytes`. Raises `UsageError`."""
    each = min(_MOST_MEMORY, room_bytes // at_once(workers)) // _STEP * _STEP
    if each < _LEAST_MEMORY:
        fitting = max(0, (room_bytes // _LEAST_MEMORY - 1) * 2 // 3)
        raise UsageError(
            f"{workers} workers don't fit: sessions have {format_size(room_bytes)} here, and each of "
            f"{at_once(workers)} at once takes at least {format_size(_LEAST_MEMORY)}",
            where="--workers",
            hint=f"At most {fitting} fit. `[host] memory_reserve` and `[zygotes] memory` are what is kept.",
        )
    return each


def provider_of(name: str, section: ProviderSection | None) -> Provider:
    """Raises `UsageError` for one that config.toml doesn't have, or whose requests no policy here knows."""
    if section is None:
        raise UsageError(
            f"there is no provider {name!r}", hint=f"Describe it in config.toml: [providers.{name}]"
        )
    if section.shape not in ("openai", "anthropic", "gemini"):
        raise UsageError(
            f"the provider {name} has requests of a shape of its own ({section.shape})",
            hint=f"Leave it out, and grant its methods and paths by hand: [network.endpoints.{name}].",
        )
    private = urlsplit(section.base_url).netloc if section.private else ""
    return Provider(name=name, shape=section.shape, secret=section.secret or name, private=private)


def used_modules(
    requirements: Iterable[str], sources: Iterable[str], *, by_name: bool = False
) -> tuple[str, ...]:
    """What of the packages asked for the scripts import, in the order in which it is asked for.

    `by_name`: they import what their callers name, so that none of it stands in them; dspy is then of it.
    """
    imported = {_CALLED} if by_name else set()
    for source in sources:
        try:
            imported |= imports_of(ast.parse(source))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    named = (canonicalize_name(Requirement(line).name) for line in requirements)
    modules = dict.fromkeys(_MODULES.get(name, name.replace("-", "_")) for name in named)
    return tuple(module for module in modules if module in imported - _NOT_WARM)


def manifest(profile: Profile) -> str:
    """``bridge.toml``."""
    top: dict[str, object] = {
        "name": profile.name,
        "version": "1.0.0",
        "summary": f"Scripts below {', '.join(profile.roots)}"[:200],
        "foreign": "auto",
        "python": ">=3.10",
    }
    if profile.requirements:
        top |= {"requirements": "requirements.in", "lock": "requirements.lock"}
    tables = [rendered("", top)]
    if profile.modules:
        calls = tuple(one for one in profile.modules if one == _CALLED)
        tables.append(rendered("preload", {"modules": profile.modules, "calls": calls}))
    for one in profile.providers:
        tables.append(rendered("[needs.endpoints]", {"provider": one.name, **_reach(one)}))
        tables.append(rendered("[needs.secrets]", {"name": one.secret, **_bound(one)}))
    return "\n".join([MARK, *tables])


def policy(profile: Profile) -> str:
    """``policies/NAME.toml``, which extends the shipped `foreign`."""
    base = f"{shipped.SHIPPED}foreign" if profile.name == "foreign" else "foreign"
    tables = [
        rendered("", {"extends": base, "weakenings": profile.weakenings}),
        rendered("limits", profile.limits),
        rendered("operations", {"allow": [f"{profile.name}:*"]}),
    ]
    if profile.tools:
        tables.append(rendered("tools", {"allow": profile.tools}))
    for one in profile.providers:
        tables.append(rendered(f"network.endpoints.{one.name}", _reach(one)))
        tables.append(rendered(f"secrets.{one.secret}", _bound(one)))
    tables.append(rendered("sandbox", {"start": profile.start}))
    tables.append(rendered("rate", {"concurrency": profile.concurrency}))
    return "\n".join([MARK, *tables])


def with_scripts(text: str, profile: Profile, where: str) -> str:
    """config.toml with the profile's folders of scripts, and nothing else of it changed.

    Raises `ConfigError` where its section is written in a way that can't be changed by a line.
    """
    wanted = rendered("", {"scripts": profile.roots}).rstrip()
    before: dict[str, Any] = reads.parse_toml(text, ConfigError, where)
    section = _section(before, profile.name)
    if section is not None and section.get("scripts") == list(profile.roots):
        return text
    lines, places = text.split("\n"), locate(text)
    table = f"bridges.{profile.name}"
    if section is None:
        lines = [*text.rstrip("\n").split("\n"), "", f"[{table}]", wanted, ""]
    elif (line := places.get(f"{table}.scripts")) is not None:
        lines[line - 1] = wanted
    elif re.match(r"\s*\[", lines[places.get(table, 1) - 1]):
        lines.insert(places[table], wanted)
    after = "\n".join(lines).lstrip("\n") if section is None else "\n".join(lines)
    if not _differs_in_scripts_alone(before, after, profile, where):
        raise ConfigError(
            f"[{table}] is written in a way that can't be changed by a line",
            where=where,
            hint=f"Write into it by hand: {wanted}",
        )
    return after


def _differs_in_scripts_alone(before: dict[str, Any], after: str, profile: Profile, where: str) -> bool:
    try:
        found = reads.parse_toml(after, ConfigError, where)
    except ConfigError:
        return False
    bridges = dict(before.get("bridges", {}))
    bridges[profile.name] = {**bridges.get(profile.name, {}), "scripts": list(profile.roots)}
    return found == {**before, "bridges": bridges}


def _section(data: dict[str, Any], name: str) -> dict[str, Any] | None:
    bridges = data.get("bridges", {})
    section = bridges.get(name) if isinstance(bridges, dict) else None
    return section if isinstance(section, dict) else None


def _reach(provider: Provider) -> dict[str, object]:
    """Inference alone, as the policy of dspy has it for each shape."""
    text, file = shipped.read("dspy") or ("", "")
    endpoint: Any = reads.parse_toml(text, PolicyError, file)
    endpoint = endpoint["network"]["endpoints"][provider.shape]
    return {key: endpoint[key] for key in ("methods", "paths")}


def _bound(provider: Provider) -> dict[str, object]:
    return {"how": "gateway", "provider": provider.name}


def name_for(folder: Path) -> str:
    """A bridge's name out of a folder's."""
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.name.lower()).strip("-_").lstrip("0123456789-_")
    return name[:63] or "scripts"
