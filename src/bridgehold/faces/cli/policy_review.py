"""`bridgehold policy lint | posture | diff | simulate | test`: policies as a reviewer reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from bridgehold import reads
from bridgehold.audit.query import TIMES, Query, parse_time
from bridgehold.audit.read import read_all
from bridgehold.bridges.manifest import Manifest
from bridgehold.bridges.manifest_file import load_manifest
from bridgehold.bridges.releases import folder_of
from bridgehold.config.layout import default_layout
from bridgehold.config.load import load_config
from bridgehold.errors import BridgeholdError, PolicyError, UsageError
from bridgehold.faces.cli.audit import audit_folder
from bridgehold.faces.cli.known import offline_bridge, typed_bridge, typed_tenant
from bridgehold.faces.cli.options import ForTenant, Json
from bridgehold.faces.cli.policy import offline_registry
from bridgehold.faces.cli.policy_check import fleet, known_names, layout_registry
from bridgehold.faces.cli.sarif import sarif
from bridgehold.faces.layout import dim
from bridgehold.faces.render import print_json, short, table
from bridgehold.faces.screen import err, out
from bridgehold.host.acts import acts_of, hosts_of
from bridgehold.host.front.registry import Registry
from bridgehold.ids import LOCAL_TENANT, is_digest, parse_name
from bridgehold.policies.changes import Changes, compare
from bridgehold.policies.expectations import read_expectations, unknown
from bridgehold.policies.lint import Finding, beyond_machine, gravest
from bridgehold.policies.lint import lint as find
from bridgehold.policies.lint_rules import SEVERITIES
from bridgehold.policies.model import Grant
from bridgehold.policies.posture import POWERS
from bridgehold.policies.posture import posture as posture_of
from bridgehold.policies.simulate import Different
from bridgehold.policies.simulate import simulate as decide_again

Bridges = Annotated[
    list[str] | None,
    typer.Argument(help="Bridges; all that the tenant sees, if left out.", callback=typed_bridge),
]
FailOn = Literal["high", "medium", "low", "info", "never"]
_COLOURS = {"high": "red", "medium": "yellow", "low": "", "info": "dim"}


def lint(
    bridges: Bridges = None,
    tenant: ForTenant = LOCAL_TENANT,
    fail_on: Annotated[FailOn, typer.Option(help="Exit 5 at a finding this grave, or graver.")] = "high",
    json_output: Json = False,
    sarif_output: Annotated[
        bool, typer.Option("--sarif", help="Print SARIF 2.1.0, for code review.")
    ] = False,
) -> None:
    """What a reviewer should look at in what bridges are granted: each with its line, the gravest first.

    A limit is found that no machine of `[fleet]` in config.toml can hold, or this one, without that table.
    """
    layout = default_layout()
    machines = fleet(load_config(layout.config_file))
    registries = [layout_registry(layout, machine) for machine in machines]
    found: list[Finding] = []
    for grant in _grants(registries, tenant, bridges):
        found += find(grant, registries[0].policy(grant.policy))
    found.sort(key=lambda one: SEVERITIES.index(one.severity))
    if sarif_output:
        print_json(sarif(found))
    elif json_output:
        print_json([{**msgspec.to_builtins(one), "means": one.means, "remedy": one.remedy} for one in found])
    else:
        _show_findings(found)
    worst = gravest(found)
    if worst is not None and fail_on != "never" and SEVERITIES.index(worst) <= SEVERITIES.index(fail_on):
        raise typer.Exit(PolicyError.exit_status)


def _show_findings(found: list[Finding]) -> None:
    by_rule: dict[str, list[Finding]] = {}
    for one in found:
        by_rule.setdefault(one.rule, []).append(one)
    for several in by_rule.values():
        first = several[0]
        out.say((f"{first.severity:<7}", _COLOURS[first.severity]), (first.rule, "bold"), f"  {first.means}")
        for one in several:
            out.say(
                f"        {one.bridge}: {one.key} = {one.value}  ", (short(one.where), "dim"), under=" " * 10
            )
        out.say(f"        {first.remedy}", under=" " * 8)
    counts = {severity: sum(one.severity == severity for one in found) for severity in SEVERITIES}
    err.say(
        ", ".join(f"{count} {severity}" for severity, count in counts.items() if count)
        or "nothing to look at"
    )


def posture(bridges: Bridges = None, tenant: ForTenant = LOCAL_TENANT, json_output: Json = False) -> None:
    """Bridges × powers: what each may reach, hold and start."""
    rows = [posture_of(grant) for grant in _grants([offline_registry()], tenant, bridges)]
    if json_output:
        print_json([msgspec.to_builtins(row) for row in rows])
        return
    used = [power for power in POWERS if any(row.powers[power] for row in rows)]
    table(
        ("bridge", dim("policy"), *used, "gravest"),
        [
            (
                row.bridge,
                row.policy,
                *(", ".join(row.powers[power]) or "-" for power in used),
                row.gravest or "-",
            )
            for row in rows
        ],
    )
    none = [power for power in POWERS if power not in used]
    if none and rows:
        err.say(f"none of them has {', '.join(none)}")


def diff(
    bridge: Annotated[str, typer.Argument(help="The bridge as it stands.", callback=typed_bridge)],
    other: Annotated[str, typer.Argument(help="Another bridge to compare it with.")] = "",
    tenant: ForTenant = LOCAL_TENANT,
    other_tenant: Annotated[
        str, typer.Option(help="Compare with the same bridge of this tenant.", callback=typed_tenant)
    ] = "",
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Compare with what this policy file would grant.")
    ] = None,
    version: Annotated[
        str,
        typer.Option(
            "--version", metavar="FOLDER|DIGEST", help="Compare with this version: its folder, or a release."
        ),
    ] = "",
    json_output: Json = False,
) -> None:
    """Capabilities gained and lost from one grant to another: by meaning, not by text.

    `--version` and `--policy` together: that version under that policy.
    """
    if sum(map(bool, (other, other_tenant, policy or version))) != 1:
        hint = "Name another bridge, or --other-tenant, or --version and --policy, or one of the two."
        raise UsageError("what is it compared with?", where="diff", hint=hint)
    registry = offline_registry()
    before = _grant(registry, tenant, bridge)
    if version:
        found = _version(tenant, bridge, version)
        after = _with_policy(tenant, bridge, policy).resolve_grant(tenant, found)
    elif policy is not None:
        after = _proposed(tenant, bridge, policy)
    else:
        after = _grant(registry, other_tenant or tenant, other or bridge)
    changes = compare(before, after)
    if json_output:
        print_json(msgspec.to_builtins(changes))
        return
    show_changes(changes)


def show_changes(changes: Changes) -> None:
    """What is gained and lost, a line each."""
    for sign, colour, several in (("+", "red", changes.gained), ("-", "green", changes.lost)):
        for one in several:
            out.say((f"{sign} {one.key}", colour), f"  {one.value}")
    if not (changes.gained or changes.lost):
        err.say("they grant the same")


def simulate(
    bridge: Annotated[str, typer.Argument(help="The bridge.", callback=typed_bridge)],
    policy: Annotated[
        Path | None, typer.Option("--policy", help="The policy file; the one in force, if left out.")
    ] = None,
    tenant: ForTenant = LOCAL_TENANT,
    audit: Annotated[
        Path | None, typer.Option("--audit", help="The audit's folder; this host's own if left out.")
    ] = None,
    since: Annotated[str, typer.Option(help=f"From this time on: {TIMES}. UTC.")] = "",
    json_output: Json = False,
) -> None:
    """What a policy would have refused, or let through, of what was asked; exit 5 where it would refuse."""
    registry = offline_registry()
    grant = _proposed(tenant, bridge, policy) if policy else _grant(registry, tenant, bridge)
    wanted = Query(since=parse_time(since))
    asked = [
        one
        for one in acts_of(read_all(audit_folder(audit)), hosts_of(registry.config), since=wanted.since)
        if (one.tenant, one.bridge) == (tenant, bridge)
    ]
    found = list(decide_again(grant, asked))
    if json_output:
        print_json({"asked": len(asked), "different": msgspec.to_builtins(found)})
    else:
        _show_different(found)
        err.say(f"{len(asked)} were asked; {len(found)} would be decided otherwise")
    if any(one.act.allowed for one in found):
        raise typer.Exit(PolicyError.exit_status)


def _show_different(found: list[Different]) -> None:
    """Alike ones once, with their number and the first of them."""
    alike: dict[tuple[str, str, bool], list[Different]] = {}
    for one in found:
        alike.setdefault((one.act.what, one.act.name, one.act.allowed), []).append(one)
    table(
        ("would be", "what", "name", "times", "because", dim("first")),
        [
            (
                "refused" if allowed else "let through",
                what,
                name,
                str(len(several)),
                short(f"{several[0].decision.reason} ({several[0].decision.source})"),
                several[0].act.event,
            )
            for (what, name, allowed), several in alike.items()
        ],
    )


def expect(
    files: Annotated[list[Path], typer.Argument(help="Files of expectations.")],
    json_output: Json = False,
) -> None:
    """Whether policies allow and refuse what files say they must; exit 5 where one doesn't. For CI."""
    registry, met, failed = offline_registry(), 0, list[dict[str, str]]()
    acts = [one for file in files for one in read_expectations(reads.read_text(file, UsageError), str(file))]
    known = known_names(registry, registry.config)
    if faults := [f"{act.event}: {fault}" for act in acts if (fault := unknown(act, known))]:
        hint = "A name that nothing bears is refused by every policy, and so proves nothing."
        raise UsageError("\n".join(faults), hint=hint)
    for act in acts:
        wrong = list(decide_again(_grant(registry, act.tenant, act.bridge), [act]))
        met += not wrong
        failed += [_unmet(one) for one in wrong]
    if json_output:
        print_json({"met": met, "failed": failed})
    else:
        for one in failed:
            out.say((one["where"], "bold"), ": ", (one["message"], "red"))
        err.say(f"{met} as expected, {len(failed)} not")
    if failed:
        raise typer.Exit(PolicyError.exit_status)


def _unmet(one: Different) -> dict[str, str]:
    act, decision = one.act, one.decision
    said = "is refused" if act.allowed else "is allowed"
    message = f"{act.tenant}, {act.bridge}: {act.what} {act.name} {said}: {decision.reason}"
    return {"where": act.event, "message": f"{message} ({decision.rule}, {decision.source})"}


def _grants(registries: Sequence[Registry], tenant: str, bridges: Iterable[str] | None) -> Iterator[Grant]:
    """Of the named bridges; of all that can be granted, else, and what can't is said.

    `registries`: one for each machine; the grant of the one that holds most of its limits counts.
    """
    parse_name(tenant, "tenant")
    if bridges:
        yield from (_held(registries, tenant, bridge) for bridge in bridges)
        return
    for entry in registries[0].entries():
        if entry.tenant not in ("", tenant):
            continue
        try:
            yield _held(registries, tenant, entry.name)
        except BridgeholdError as error:
            err.say((f"{entry.name}: ", "bold"), f"no grant: {error.message}")


def _held(registries: Sequence[Registry], tenant: str, bridge: str) -> Grant:
    found: list[Grant] = []
    for at, registry in enumerate(registries, 1):
        try:
            found.append(_grant(registry, tenant, bridge))
        except BridgeholdError:
            if at == len(registries) and not found:
                raise
    return min(found, key=lambda grant: len(beyond_machine(grant)))


def _grant(registry: Registry, tenant: str, bridge: str) -> Grant:
    return registry.resolve_grant(tenant, offline_bridge(bridge, tenant, registry))


def _proposed(tenant: str, bridge: str, file: Path) -> Grant:
    """What `bridge` would be granted if the policy that it runs under said what `file` says."""
    return _grant(_with_policy(tenant, bridge, file), tenant, bridge)


def _with_policy(tenant: str, bridge: str, file: Path | None) -> Registry:
    registry = offline_registry()
    if file is not None:
        text = reads.read_text(file, PolicyError)
        registry.files.put_instead("policy", registry.policy_name(bridge, tenant), text)
    return registry


def _version(tenant: str, bridge: str, version: str) -> Manifest:
    """Of a folder, or of a release of the tenant's own bridge. Raises `UsageError`, `ManifestError`."""
    home = default_layout().own_bridges(tenant) / bridge
    folder = folder_of(home, version) if is_digest(version) else Path(version)
    found = load_manifest(folder)
    if found.name != bridge:
        raise UsageError(f"this is a version of {found.name}, not of {bridge}", where=str(found.file))
    return found
