"""`bridgehold shim`: an interpreter for DSPex and Snakepit that runs users' own scripts in sandboxes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bridgehold.errors import ConfigError, UsageError
from bridgehold.faces.cli.known import typed_tenant
from bridgehold.faces.cli.options import Json
from bridgehold.faces.screen import err, out
from bridgehold.ids import LOCAL_TENANT, parse_name

if TYPE_CHECKING:
    from bridgehold.config.layout import Layout
    from bridgehold.faces.legacy.profile import Profile

_CHECK = "check"


def shim(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[check] DIR",
            help="The folder to make, shaped like a virtual environment; after `check`, one that is there.",
        ),
    ],
    script_root: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder of scripts, and of what they import; several, if need be. All else is set up."
        ),
    ] = None,
    requirements: Annotated[
        Path | None, typer.Option(help="The packages that the scripts import, one a line; they are locked.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=1_000, help="How many the pool has at once.")] = 8,
    provider: Annotated[
        list[str] | None,
        typer.Option(help="What it may reach: openai, anthropic … Those with a key, if left out."),
    ] = None,
    start: Annotated[str, typer.Option(help="fork (from a warm process) or cold.")] = "fork",
    name: Annotated[str, typer.Option(help="Of bridge and policy; the folder's own, if left out.")] = "",
    profile: Annotated[
        str, typer.Option(help="A foreign bridge that is there, in place of one that is set up.")
    ] = "",
    tool: Annotated[
        list[str] | None,
        typer.Option(help="Of your BEAM's own tools, one that gRPC workers may call back, or '*'. None."),
    ] = None,
    script: Annotated[str, typer.Option(help="Of `check`: the script to start; the one that is found.")] = "",
    adapter: Annotated[
        str, typer.Option(help="Of `check`: of a gRPC worker; SnakeBridge's, or Snakepit's own.")
    ] = "",
    tenant: Annotated[
        str, typer.Option(help="On whose behalf its scripts run.", callback=typed_tenant)
    ] = LOCAL_TENANT,
    json_output: Json = False,
) -> None:
    """Make a folder whose bin/python3 runs unmodified scripts in sandboxes (docs/how-to/dspex.md).

    With --script-root it sets up everything that they need, on a running host too, and prints the line for
    config.exs. `bridgehold shim check DIR` starts a worker as a pool would, and says what is missing.
    """
    parse_name(tenant, "tenant")
    if len(words) == 2 and words[0] == _CHECK:
        _check(Path(words[1]), script, adapter, json_output=json_output)
        return
    if len(words) != 1:
        raise UsageError("one folder is expected", hint="bridgehold shim DIR --script-root FOLDER")
    folder = Path(words[0]).absolute()
    if profile:
        if script_root:
            raise UsageError("a profile that is there has its folders", where="--script-root")
        _make(folder, profile, tenant)
        return
    if not script_root:
        raise UsageError(
            "nobody said which scripts it may run",
            where="--script-root",
            hint="Name their folder; or, with --profile, a foreign bridge that is there.",
        )
    if start not in ("fork", "cold"):
        raise UsageError(f"a worker starts by fork or cold, not by {start[:40]!r}", where="--start")
    _set_up(
        folder,
        script_root,
        requirements,
        workers=workers,
        named=provider or [],
        tools=tool or [],
        start="fork" if start == "fork" else "cold",
        name=name,
        tenant=tenant,
        json_output=json_output,
    )


def _set_up(
    folder: Path,
    roots: list[Path],
    requirements: Path | None,
    *,
    workers: int,
    named: list[str],
    tools: list[str],
    start: Literal["fork", "cold"],
    name: str,
    tenant: str,
    json_output: bool,
) -> None:
    from bridgehold.config.layout import default_layout
    from bridgehold.config.load import load_config
    from bridgehold.faces.cli.bridges import build_environment
    from bridgehold.faces.legacy import profile as texts
    from bridgehold.faces.legacy import setup
    from bridgehold.faces.legacy.folder import check_folder, write_shim
    from bridgehold.faces.legacy.workers import is_bridged, wires_in
    from bridgehold.faces.progress import waiting
    from bridgehold.supervisor.plans import hidden

    layout = default_layout()
    check_folder(folder)
    config = load_config(layout.config_file)
    found = setup.folders(roots)
    asked = setup.asked(requirements)
    keys = setup.keys_of(layout, config, tenant)
    profile = texts.Profile(
        name=parse_name(name or texts.name_for(folder), "name"),
        roots=found,
        requirements="".join(f"{line}\n" for line in asked),
        modules=texts.used_modules(asked, setup.sources(found), by_name=is_bridged(found)),
        providers=setup.providers(config, named, keys),
        workers=workers,
        memory_bytes=texts.memory_of(workers, setup.room(config, forked=start == "fork")),
        start=start,
        wires=wires_in(found),
        tools=tuple(tools),
    )
    with waiting("resolving what the scripts import"):
        packages = setup.write(layout, profile)
    running = asyncio.run(setup.tell(layout))
    built = asyncio.run(build_environment(profile.name, tenant))
    program = write_shim(folder, _file_of(profile.name, tenant, layout))
    unseen = hidden(layout, config, found) if running else ()
    host = "told, and goes on" if running else "none runs: start it with `bridgehold serve`"
    if unseen:
        beside = f"{', '.join(unseen)}, below a folder that is closed to others"
        host = f"told; it sees {beside}, after `bridgehold restart`"
    shown, lines = _granted(profile, tenant, packages, keys, host), _lines(folder, profile)
    if json_output:
        from bridgehold.faces.render import print_json

        print_json(
            {
                "python": str(program),
                "digest": built["digest"],
                "granted": shown,
                "lines": _lines(folder, profile),
            }
        )
        return
    _print(program, shown, lines)


def _granted(profile: Profile, tenant: str, packages: int, keys: frozenset[str], host: str) -> dict[str, str]:
    from bridgehold.faces.legacy.families import frame_bytes
    from bridgehold.policies.units import format_size

    def said(one: Any) -> str:
        set_it = f"bridgehold secrets set {one.secret}" + (
            f" --tenant {tenant}" if tenant != LOCAL_TENANT else ""
        )
        key = "its key is put in by the gateway" if one.secret in keys else f"no key yet: {set_it}"
        return f"{one.name} (inference alone; {key})"

    none = "none: --tool NAME grants one, --tool '*' all"
    held = f"{packages} locked" + (f"; {', '.join(profile.modules)} warm" if profile.modules else "")
    weak = [f"private_network: {one.name} is at {one.private}" for one in profile.providers if one.private]
    return {
        "bridge and policy": f"{profile.name}, for {tenant}",
        "scripts": ", ".join(profile.roots),
        "packages": held if profile.requirements else "none: the standard library alone",
        "providers": ", ".join(map(said, profile.providers)) or "none",
        "workers": f"{profile.workers} at once, {format_size(profile.memory_bytes)} each, by {profile.start}",
        "frames": f"up to {format_size(frame_bytes(profile.wires))} each way",
        **({"its starter's tools": ", ".join(profile.tools) or none} if "grpc" in profile.wires else {}),
        "weakenings": ", ".join(weak) or "none",
        "host": host,
    }


def _lines(folder: Path, profile: Profile) -> dict[str, str]:
    from bridgehold.faces.legacy.families import served

    return {family.name: family.shown(folder) for family in served(profile.wires)}


def _print(program: Path, granted: dict[str, str], lines: dict[str, str]) -> None:
    from bridgehold.faces.render import table

    out.say(str(program), whole=True)
    out.say()
    table(("", "granted"), list(granted.items()))
    out.say()
    out.say(("one line for config.exs", "bold"))
    for name, line in lines.items():
        out.say((f"# {name}", "dim"))
        out.say(line, whole=True)


def _make(folder: Path, profile: str, tenant: str) -> None:
    """For a profile that somebody wrote."""
    from bridgehold.bridges.catalogue import Catalogue
    from bridgehold.config.layout import default_layout
    from bridgehold.config.load import load_config
    from bridgehold.faces.legacy.folder import write_shim

    layout = default_layout()
    manifest = Catalogue.load([layout.bridges], layout.tenants).get(parse_name(profile, "profile"), tenant)
    if not manifest.foreign:
        raise UsageError(
            f"{profile} runs no scripts of one's own",
            hint=f"`bridgehold stdio --bridge {profile}` is the plug for it.",
        )
    section = load_config(layout.config_file).bridges.get(profile)
    if section is None or not section.scripts:
        raise ConfigError(
            f"{profile} has no folder of scripts",
            where=str(layout.config_file),
            hint=f'Name it: [bridges.{profile}] scripts = "/srv/app/priv/python"',
        )
    program = write_shim(folder, _file_of(profile, tenant, layout))
    out.say(str(program), whole=True)
    err.say((f"runs scripts below {', '.join(section.scripts)} as {profile}, for tenant {tenant}", "dim"))


def _file_of(profile: str, tenant: str, layout: Layout) -> Any:
    from bridgehold.faces.legacy.values import ShimFile

    return ShimFile(
        profile=profile,
        tenant=tenant,
        config=str(layout.config),
        state=str(layout.state),
        run=str(layout.run),
    )


def _check(folder: Path, script: str, adapter: str, *, json_output: bool) -> None:
    from bridgehold.faces.cli.policy_check import layout_registry
    from bridgehold.faces.layout import Column
    from bridgehold.faces.legacy.trial import trial
    from bridgehold.faces.progress import waiting
    from bridgehold.faces.render import STATUS_STYLE, print_json, table

    with waiting("starting a worker as a pool would"):
        found = asyncio.run(trial(folder.absolute(), script, layout_registry, adapter))
    if json_output:
        print_json(found)
    else:
        rows = [(one.status, one.name, one.detail, one.remedy) for one in found]
        table((Column("", styles=STATUS_STYLE), "", "what was seen", "what to do"), rows)
    if any(one.status == "FAIL" for one in found):
        raise typer.Exit(1)
