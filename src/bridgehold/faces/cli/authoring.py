"""`bridgehold bridge new | lock | check | dev`: for those who write bridges."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from bridgehold import reads, writes
from bridgehold.bridges.manifest import Manifest
from bridgehold.client.client import Client, Host
from bridgehold.config.layout import default_layout
from bridgehold.error_texts import mending
from bridgehold.errors import BridgeholdError, ConfigError, UsageError
from bridgehold.faces.authoring.check import Verdict, check, check_files
from bridgehold.faces.authoring.scripts import read_script
from bridgehold.faces.authoring.templates import bridge_from, new_bridge
from bridgehold.faces.cli.known import offline_bridge, typed_bridge, typed_tenant
from bridgehold.faces.cli.options import Json
from bridgehold.faces.cli.policy import offline_registry
from bridgehold.faces.cli.run import read_arguments
from bridgehold.faces.layout import Column
from bridgehold.faces.progress import waiting
from bridgehold.faces.render import STATUS_STYLE, print_error, print_json, print_traceback, table
from bridgehold.faces.screen import err, out
from bridgehold.ids import LOCAL_TENANT, parse_command, parse_name
from bridgehold.policies.files import of_tenant

Name = Annotated[str, typer.Argument(help="The bridge.", callback=typed_bridge)]
Tenant = Annotated[
    str,
    typer.Option(
        help="Whose policy, and who sees it: tenants may have bridges of their own.",
        callback=typed_tenant,
    ),
]
Provider = Annotated[
    bool, typer.Option("--provider", help="On a private host, with the provider played on this machine.")
]
_LOOK_SECONDS = 0.3


def new(
    name: Annotated[str, typer.Argument(help="Its name: lower-case letters, digits, '-'.")],
    script: Annotated[
        str, typer.Option("--from", help="A DSPex or Snakepit script whose commands become its operations.")
    ] = "",
    tenant: Annotated[
        str, typer.Option(help="Of this tenant alone; of all, if left out.", callback=typed_tenant)
    ] = "",
    json_output: Json = False,
) -> None:
    """Write a bridge that runs and is tested at once; with --from, a draft that has a script's commands."""
    parse_name(name, "bridge")
    layout = default_layout()
    place = layout.own_bridges(parse_name(tenant, "tenant")) if tenant else layout.bridges
    folder = place / name
    policy = layout.policies / f"{of_tenant(name, tenant) if tenant else name}.toml"
    for path in (folder, policy):
        if path.exists():
            raise UsageError(f"{path} is there already", hint="Choose another name, or remove it.")
    if script:
        files = bridge_from(name, str(folder), Path(script).name, read_script(_source(script), script))
    else:
        files = new_bridge(name, str(folder))
    try:
        writes.make_folder(policy.parent)
        writes.make_folder(folder, new=True)
        granted = files.pop("policy")
        for path, text in ((policy, granted), *((folder / name, files[name]) for name in files)):
            with writes.create(path, mode=0o644) as file:
                file.write(text.encode())
    except OSError as error:
        where = str(error.filename or folder)
        hint = "Write it as the user whose host it is, or set BRIDGEHOLD_HOME to a folder of your own."
        why = f"can't be written: {error.strerror}"
        raise ConfigError(why, where=where, hint=mending(error, hint)) from error
    follow = "check" if "requirements.in" not in files else "lock"
    following = f"bridgehold bridge {follow} {name}{f' --tenant {tenant}' if tenant else ''}"
    made = [str(path) for path in (*sorted(folder.iterdir()), policy)]
    if json_output:
        print_json({"files": made, "next": following})
        return
    for one in made:
        out.say(one, whole=True)
    err.say(f"next: {following}")


def _source(script: str) -> str:
    return reads.read_text(Path(script), UsageError)


def lock_bridge(
    name: Name,
    tenant: Tenant = LOCAL_TENANT,
    python: Annotated[
        str, typer.Option(help="For this version of Python; the host's own, if left out.")
    ] = "",
    json_output: Json = False,
) -> None:
    """Resolve what the bridge asks for to exact versions with hashes: wheels only, nothing is run."""
    from bridgehold.faces.authoring.locking import lock

    registry = offline_registry()
    manifest = offline_bridge(name, tenant, registry)
    with waiting(f"resolving {name}{f' for Python {python}' if python else ''}"):
        count = lock(manifest, python, registry.config.host)
    if json_output:
        print_json({"packages": count, "lock": str(manifest.lock_path)})
    else:
        out.say(f"{count} packages in {manifest.lock_path}")


def check_bridge(
    name: Name,
    tenant: Tenant = LOCAL_TENANT,
    provider: Provider = False,
    json_output: Json = False,
) -> None:
    """Try what any bridge must do, in a sandbox under its own policy; exit status 1 where something fails."""
    registry = offline_registry()
    manifest = offline_bridge(name, tenant, registry)
    found = check_files(manifest, registry.config.host.pythons)  # a start would fail, and say less
    found = found or asyncio.run(_check(manifest, tenant, provider=provider))
    if json_output:
        print_json(found)
    else:
        table(
            (Column("", styles=STATUS_STYLE), "what", "detail"),
            [(one.status, one.name, one.detail) for one in found],
        )
        for one in found:
            print_traceback(one.traceback, out)
    if any(one.status == "FAIL" for one in found):
        raise typer.Exit(1)


async def _check(manifest: Manifest, tenant: str, *, provider: bool) -> list[Verdict]:
    async with contextlib.AsyncExitStack() as stack:
        host, _ = await _open(stack, manifest.name, provider=provider, tenant=tenant)
        return [verdict async for verdict in check(host, manifest, tenant)]


def dev(
    operation: Annotated[
        str, typer.Argument(help="BRIDGE:OPERATION, run again after each save.", callback=typed_bridge)
    ],
    args: Annotated[str, typer.Option("--args", help="Arguments as JSON; '-' or @FILE to read them.")] = "{}",
    runs: Annotated[int, typer.Option(help="Stop after so many runs; 0: at Ctrl-C.")] = 0,
    tenant: Tenant = LOCAL_TENANT,
    provider: Provider = False,
) -> None:
    """Run an operation in a fresh sandbox after each save, with its log and traceback."""
    bridge, named, _ = operation.partition(":")
    manifest = offline_bridge(bridge, tenant)
    if not named:
        first = next(iter(manifest.operations), "OPERATION")
        raise UsageError(
            f"{operation!r} names no operation to run again",
            hint=f"Such as `bridgehold bridge dev {bridge}:{first}`.",
        )
    parse_command(operation)
    arguments = read_arguments(args)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_dev(operation, arguments, manifest.folder, runs, provider=provider, tenant=tenant))


async def _dev(
    operation: str, arguments: dict[str, Any], folder: Path, runs: int, *, provider: bool, tenant: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        host, refresh = await _open(stack, folder.name, provider=provider, tenant=tenant)
        done, seen = 0, None
        while not runs or done < runs:
            now = _stamps(folder)
            if now == seen:
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            seen, done = now, done + 1
            refresh()
            await _run_once(host, operation, arguments, tenant)


async def _open(
    stack: contextlib.AsyncExitStack, bridge: str, *, provider: bool, tenant: str
) -> tuple[Client, Callable[[], None]]:
    """The user's host, or a private one with a simulated provider; and what takes the bridge's files anew."""
    from bridgehold.faces.testing.playground import hosted, playground

    if not provider:
        return await stack.enter_async_context(Host.open()), lambda: None
    ground = await stack.enter_async_context(playground(bridge, tenants=(tenant,)))
    host, _ = await stack.enter_async_context(hosted(ground))
    return host, ground.refresh


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    """What tells that a file was saved."""
    found = []
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(OSError):
            facts = path.stat()
            found.append((path.name, facts.st_mtime_ns, facts.st_size))
    return found


async def _run_once(host: Client, operation: str, arguments: dict[str, Any], tenant: str) -> None:
    begun = time.perf_counter()
    err.say()
    err.say((time.strftime("%H:%M:%S"), "bold"))
    try:
        async with host.session(operation.partition(":")[0], tenant=tenant) as session:
            try:
                print_json(await session.run(operation, arguments))
            except BridgeholdError as error:
                print_error(error, as_json=False)
            log = await session.logs()
    except BridgeholdError as error:
        print_error(error, as_json=False)
        return
    if log:
        err.say((log.rstrip(), "dim"), whole=True)
    err.say(f"{(time.perf_counter() - begun) * 1000:.0f} ms in a sandbox of its own; waiting for a save")
