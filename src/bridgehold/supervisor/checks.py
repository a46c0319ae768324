"""The doctor as the host runs it: the sandbox room's probes, with this layout's configuration."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable

from bridgehold import clock
from bridgehold.audit.recovery import newest
from bridgehold.config.http import listen_address
from bridgehold.config.layout import HOME_VARIABLE, Layout, unread
from bridgehold.config.load import Config
from bridgehold.config.machine import system_paths
from bridgehold.config.pushed import standings
from bridgehold.errors import DependencyError, EnvironmentChangedError, UnsupportedError
from bridgehold.host.cold_starts import remedy
from bridgehold.policies.tables import format_time
from bridgehold.sandbox.cgroups import scope
from bridgehold.sandbox.doctor import Check, Context, run_checks
from bridgehold.sandbox.doctor.launcher import own_launcher
from bridgehold.sandbox.doctor.model import Probe, caution, failed, passed
from bridgehold.sandbox.envs.store import EnvironmentStore
from bridgehold.sandbox.spec import prefix_of
from bridgehold.supervisor.plans import launcher_config


def run_all(layout: Layout, config: Config, *, on_check: Callable[[str], None] | None = None) -> list[Check]:
    """Every row of the doctor, in its fixed order."""
    launcher = launcher_config(layout, config)
    with contextlib.suppress(UnsupportedError):  # as a host starts; the row cgroup says what there is then
        scope.enter(launcher.cgroup, os.environ)
    context = Context(
        cgroup=launcher.cgroup,
        reserve_bytes=launcher.reserve_bytes,
        uid_first=launcher.uid_first,
        uid_count=launcher.uid_count,
    )
    own = [
        configuration_probe(layout),
        _secrets_probe(layout, config),
        _anchors_probe(layout, config),
        pythons_probe(config),
        environments_probe(layout),
        supply_probe(layout, config),
        bridges_probe(layout),
        cold_starts_probe(layout),
        http_probe(layout, config),
        clock_probe(layout),
    ]
    return run_checks(context, extra=own, on_check=on_check)


def configuration_probe(layout: Layout) -> Probe:
    """A doctor's row: whether config.toml can be read, and which files would be read elsewhere."""

    def act(_: Context) -> Check:
        said = "is read" if layout.config_file.exists() else "would be read; there is none, so defaults hold"
        beside = [str(path) for path in unread(os.environ, os.getuid()) if path.is_file()]
        if not beside:
            return passed("configuration", f"{layout.config_file} {said}")
        detail = f"{layout.config_file} {said}; not read: {', '.join(beside)}"
        if os.getuid() != 0 or os.environ.get(HOME_VARIABLE):
            return passed("configuration", detail)
        remedy = f"As root {layout.config} counts: move it there, or remove it."
        return caution("configuration", detail, remedy)

    return Probe(name="configuration", proves="Which config.toml is read", run=act)


def _secrets_probe(layout: Layout, config: Config) -> Probe:
    def act(_: Context) -> Check:
        from bridgehold.keeper.admin import SecretAdmin

        admin = SecretAdmin.for_layout(layout, config)
        kept = len(admin.list())
        return passed("secrets", f"the {admin.store} store opens; {kept} secret(s) are kept")

    return Probe(name="secrets", proves="The pinned secret store opens here", run=act, seconds=30)


def _anchors_probe(layout: Layout, config: Config) -> Probe:
    def act(_: Context) -> Check:
        sinks = standings(layout, config, time.time())
        if faults := [f"{one.name}: {one.fault} ({one.state.waiting} wait)" for one in sinks if one.fault]:
            hint = "`bridgehold audit sinks` shows each; nothing is lost, and no command waits for it."
            return caution("anchors", f"does not leave: {'; '.join(faults)}"[:800], hint)
        if sinks:
            names = ", ".join(one.name for one in sinks)
            return passed("anchors", f"the audit leaves by itself to {names}; {sinks[0].state.waiting} wait")
        if not any(layout.audit.glob("*/*.jsonl")):
            return passed("anchors", "there is no audit yet")
        return caution(
            "anchors",
            "anchors lie beside the audit; whoever can rewrite one can rewrite the other",
            f"Copy {layout.anchors} to another machine regularly, and verify with `--anchors`.",
        )

    return Probe(name="anchors", proves="Where the audit's signed anchors are kept", run=act)


def clock_probe(layout: Layout) -> Probe:
    """A doctor's row: whether the machine's clock is where the audit has been already."""

    def act(_: Context) -> Check:
        seen = newest(layout.audit)
        behind = seen - time.time()
        if behind <= clock.BEHIND_SECONDS:
            return passed("clock", "it is not behind the audit's last event")
        said, remedy = clock.warning(behind).split(". ")
        return caution("clock", f"{said} ({format_time(seen)})", f"{remedy}.")

    return Probe(name="clock", proves="What has ended by a time stays ended", run=act)


def pythons_probe(config: Config) -> Probe:
    """Runs each Python that a bridge may have in a sandbox, where it imports what has its own libraries."""

    def act(context: Context) -> Check:
        from bridgehold.sandbox.envs.interpreter import Interpreters, seen_inside
        from bridgehold.sandbox.envs.launcher_runner import LauncherRunner

        own = os.path.realpath(sys.executable)
        named = (own, *config.host.pythons)

        async def run() -> Interpreters:
            async with own_launcher(context, tuple(map(prefix_of, named))) as client:
                return await seen_inside(named, LauncherRunner(client, system_paths()))

        found = asyncio.run(run())
        if found.lost:
            hint = "Name one that runs whole from its own folder: `[host] pythons` in config.toml."
            return failed("pythons", f"can't be had by a bridge: {'; '.join(found.lost)}", hint)
        known = ", ".join(f"{one.version} at {one.prefix}" for one in found.known)
        return passed("pythons", f"{known}: each runs in a sandbox with ssl, sqlite3, ctypes and lzma")

    return Probe(
        name="pythons",
        proves="Each Python that bridges may have runs in a sandbox, whole",
        run=act,
        seconds=60,
    )


def environments_probe(layout: Layout) -> Probe:
    """Compares inode facts only; `bridgehold bridge verify` reads every byte."""

    def act(_: Context) -> Check:
        store = EnvironmentStore(layout.environments)
        faults = []
        for environment in store.list():
            try:
                store.check(environment)
            except EnvironmentChangedError as error:
                faults.append(error.message)
        if faults:
            return failed("environments", "; ".join(faults), EnvironmentChangedError.default_hint)
        return passed("environments", f"{len(store.list())} built, each as it was sealed")

    return Probe(name="environments", proves="What is built is still what was sealed", run=act, seconds=120)


def supply_probe(layout: Layout, config: Config) -> Probe:
    """A doctor's row: what advisories say of the environments that are built."""

    def act(_: Context) -> Check:
        from bridgehold.host.front.supply import read_now, refuse_licences, tell, why_blocked
        from bridgehold.sandbox.supply.judge import judge
        from bridgehold.sandbox.supply.scan import licences_of

        section, store = config.supply, EnvironmentStore(layout.environments)
        built = store.list()
        packages = {(part.name, part.version) for one in built for part in one.packages}
        for one in built if section.licences else ():
            known = licences_of(store.path(one), one.python)
            licensed = [(each.name, each.version, known.get(each.name)) for each in one.packages]
            try:
                refuse_licences(licensed, section)
            except DependencyError as error:
                return failed("supply", f"is blocked: {error.message}", "`bridgehold bridge scan` shows all.")
        if not section.advisories:
            return passed("supply", "no advisories are looked at: `[supply] advisories` is empty")
        advisories, old = read_now(section, {name for name, _ in packages})
        if why := why_blocked(packages, advisories, section):
            return failed("supply", f"is blocked: {why}", "`bridgehold bridge scan` shows all.")
        hits = [one for one in judge(packages, advisories, section.accepted) if not one.accepted]
        faults = [f"{advisories.unread_count} advisories can't be read"] if advisories.unread else []
        faults += ["the advisories are too old"] if old else []
        faults += [tell(hit) for hit in hits]
        if faults:
            return caution("supply", "; ".join(faults)[:800], "`bridgehold bridge scan` shows all.")
        return passed("supply", f"none of {advisories.files} advisories hits what is built")

    return Probe(name="supply", proves="What is known against built environments", run=act, seconds=120)


def bridges_probe(layout: Layout) -> Probe:
    """Reads manifests; whether their bridges run is `bridgehold bridge check NAME`'s to say."""

    def act(_: Context) -> Check:
        from bridgehold.bridges.catalogue import Catalogue, passed_over

        found = Catalogue.load([layout.bridges], layout.tenants).list()
        wrong = [f"{one.folder}: {one.fault}" for one in found if one.fault]
        beside = passed_over(layout.bridges, layout.tenants)
        wrong += [f"nothing reads {place}: {why}" for place, why in beside]
        if wrong:
            hint = "`bridgehold policy check` names each with its line; rename, mend or remove it."
            return caution("bridges", "; ".join(wrong)[:800], hint)
        return passed("bridges", f"{len(found)}, each with a manifest that can be read")

    return Probe(name="bridges", proves="Each folder of a bridge can be read as one", run=act)


def cold_starts_probe(layout: Layout) -> Probe:
    """A doctor's row: which bridges were started cold although their policy says fork, and why."""

    def act(_: Context) -> Check:
        from bridgehold.audit.read import read_all

        said: dict[str, str] = {}
        if layout.audit.is_dir():
            for entry in read_all(layout.audit):
                if entry.kind == "start.fell_back":
                    said[entry.text("bridge")] = entry.text("reason")
                elif entry.kind == "zygote.started":
                    said.pop(entry.text("bridge"), None)  # since then it could
        if not said:
            return passed("cold-starts", "no bridge that may be forked has started cold")
        return caution(
            "cold-starts",
            "; ".join(f"{bridge}: {reason}" for bridge, reason in sorted(said.items()))[:800],
            " ".join(dict.fromkeys(map(remedy, said.values()))),
        )

    return Probe(
        name="cold-starts", proves="Which bridges start cold though their policy lets them be forked", run=act
    )


def http_probe(layout: Layout, config: Config) -> Probe:
    """Raises `ConfigError` for an address that the host would refuse."""

    def act(_: Context) -> Check:
        section = config.http
        if not section.listen:
            return passed("http", "not served: `[http] listen` is empty")
        listen_address(section.listen, public=section.public)
        tokens = sum(len(principal.tokens) for principal in config.principals.values())
        tokens += sum(1 for _ in layout.tokens.glob("*.toml"))
        served = f"served at {section.listen} to {tokens} token(s)"
        if section.public:
            remedy = "Listen on loopback behind a proxy that does TLS, without `[http] public`."
            return caution("http", f"{served}, without TLS (weakening `public_http`)", remedy)
        if not tokens:
            return caution("http", served, "`bridgehold token create` makes one.")
        return passed("http", served)

    return Probe(name="http", proves="Where HTTP is served, and to how many", run=act)
