"""Conformance: what a bridge must do before anybody relies on it, tried in a sandbox under its own policy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import msgspec

from bridgehold import reads
from bridgehold.bridges.adapters import adapter_source
from bridgehold.bridges.catalogue import WRITE_REQUIREMENTS, problems_of
from bridgehold.bridges.manifest import Manifest
from bridgehold.client.client import Client
from bridgehold.client.session import ClientSession
from bridgehold.errors import BridgeholdError, DependencyError
from bridgehold.host.cold_starts import describe
from bridgehold.host.front.builders import lock_text
from bridgehold.sandbox.envs.interpreter import allows, host_interpreter, minor_fitting
from bridgehold.sandbox.envs.lock import active_pins, parse_lock
from bridgehold.sandbox.envs.resolving import read_requirements

_STRANGE = {"__bridgehold_check__": 1}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried."""

    name: str
    status: Literal["PASS", "CAUTION", "FAIL"]
    detail: str = ""
    traceback: str = ""
    """Of the bridge's code, where that failed."""


def _failed(name: str, error: BridgeholdError) -> Verdict:
    """With where it was and what to do, and where in the bridge's own code."""
    where = f" ({error.where})" if error.where else ""
    hint = f". {error.hint}" if error.hint and not error.hint.startswith("bridgehold why") else ""
    detail = f"{error.message}{where}{hint}"
    return Verdict(name=name, status="FAIL", detail=detail, traceback=error.traceback)


def check_files(manifest: Manifest, named: Sequence[str]) -> list[Verdict]:
    """What `bridge lock` and `bridge build` would refuse of its files alone: no network, and nothing is run.

    `named`: further Pythons of this host. Empty where there is nothing to say of it.
    """
    found = []
    for name, look in (("has a Python", _python), ("asks for packages", _asked), ("has its lock", _locked)):
        try:
            look(manifest, named)
        except BridgeholdError as error:
            found.append(_failed(name, error))
    return found or [
        Verdict(name="has its files", status="FAIL", detail=f"{one.message}. Remedy: {one.hint}")
        for one in problems_of(manifest)
    ]


def _python(manifest: Manifest, named: Sequence[str]) -> None:
    minor_fitting(manifest.python, named, where=str(manifest.file))


def _asked(manifest: Manifest, _: Sequence[str]) -> None:
    if (path := manifest.requirements_path) is not None:
        read_requirements(reads.read_text(path, DependencyError, hint=WRITE_REQUIREMENTS), str(path))


def _locked(manifest: Manifest, _: Sequence[str]) -> None:
    lock, own = parse_lock(lock_text(manifest), str(manifest.lock_path)), host_interpreter()
    if allows(manifest.python, own.version, where=str(manifest.file)):
        active_pins(lock, own)


async def check(client: Client, manifest: Manifest, tenant: str) -> AsyncIterator[Verdict]:
    """Everything in turn; after a failed start nothing more can be tried."""
    async for verdict in _described(client, manifest, tenant):
        yield verdict
    try:
        async with client.session(manifest.name, tenant=tenant) as session:
            yield Verdict(name="starts", status="PASS", detail="its class agrees with its manifest, attested")
            yield await _as_its_policy_says(client, session)
            async for verdict in _alive(session):
                yield verdict
            async for verdict in _refuses(session, manifest):
                yield verdict
            yield await _still_there(session)
            log = await session.logs()
    except BridgeholdError as error:
        yield _failed("starts", error)
        return
    noisy = len(log.splitlines())
    yield Verdict(
        name="is quiet",
        status="PASS" if noisy <= 20 else "CAUTION",
        detail=f"{noisy} lines in its log",
    )


async def _as_its_policy_says(client: Client, session: ClientSession) -> Verdict:
    found = next(one for one in await client.sessions() if one.id == session.id)
    return Verdict(
        name="starts as its policy says",
        status="CAUTION" if found.cold_start else "PASS",
        detail=describe(found.cold_start) if found.cold_start else found.start,
    )


async def _described(client: Client, manifest: Manifest, tenant: str) -> AsyncIterator[Verdict]:
    described = await client.describe(manifest.name, tenant=tenant)
    unsaid = [
        name
        for name, one in manifest.operations.items()
        if not one.arguments and one.effect in ("create", "run")
    ]
    yield Verdict(
        name="arguments have schemas",
        status="CAUTION" if unsaid else "PASS",
        detail=f"none: {', '.join(unsaid)}" if unsaid else f"{len(manifest.operations)} operations",
    )
    withheld = [one["name"] for one in described["operations"] if not one["granted"]]
    yield Verdict(
        name="is granted what it offers",
        status="CAUTION" if withheld else "PASS",
        detail=f"not granted: {', '.join(withheld)}" if withheld else "every operation",
    )
    compile(adapter_source(manifest), "adapter", "exec")
    yield Verdict(name="has a typed adapter", status="PASS", detail="bridgehold bridge adapter")


async def _alive(session: ClientSession) -> AsyncIterator[Verdict]:
    for command in ("ping", "health", "get_capabilities", "get_stats"):
        try:
            said: Any = await session.run(f"common:{command}")
            yield Verdict(name=f"answers {command}", status="PASS", detail=str(said.get("status", "")))
        except BridgeholdError as error:
            yield _failed(f"answers {command}", error)


async def _refuses(session: ClientSession, manifest: Manifest) -> AsyncIterator[Verdict]:
    """Arguments that no operation has, and ids that don't exist, are refused and leave the session alive."""
    strange, missing = [], []
    for name, operation in manifest.operations.items():
        code = await _code(session, name, _STRANGE)
        if code not in ("usage", "denied"):
            strange.append(f"{name} ({code or 'taken'})")
        if operation.effect in ("read", "delete") and operation.id_field:
            code = await _code(session, name, {operation.id_field: "bridgehold-check-no-such-id"})
            if code not in ("not_found", "denied", "usage"):
                missing.append(f"{name} ({code or 'found'})")
    yield Verdict(
        name="refuses unknown arguments",
        status="FAIL" if strange else "PASS",
        detail=", ".join(strange)[:300],
    )
    yield Verdict(
        name="says not_found", status="CAUTION" if missing else "PASS", detail=", ".join(missing)[:300]
    )


async def _still_there(session: ClientSession) -> Verdict:
    try:
        await session.run("common:ping")
    except BridgeholdError as error:
        return _failed("outlives refusals", error)
    return Verdict(name="outlives refusals", status="PASS")


async def _code(session: ClientSession, operation: str, arguments: dict[str, Any]) -> str:
    try:
        await session.run(operation, arguments)
    except BridgeholdError as error:
        return error.code
    return ""
