"""`bridgehold policy check | explain | show`: policies read as the host would, without one running."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from bridgehold import reads
from bridgehold.config.layout import default_layout
from bridgehold.errors import PolicyError
from bridgehold.faces.cli.known import offline_bridge, typed_bridge, typed_tenant
from bridgehold.faces.cli.options import ForTenant, Json
from bridgehold.faces.cli.policy_check import check_layout, known_names, layout_registry
from bridgehold.faces.cli.policy_sign import STATES
from bridgehold.faces.layout import dim, grouped
from bridgehold.faces.render import print_json, short, table
from bridgehold.faces.screen import err, out
from bridgehold.host.front.registry import Registry
from bridgehold.ids import LOCAL_TENANT, parse_name
from bridgehold.policies.explain import Row, unknown_names
from bridgehold.policies.explain import check as check_policies
from bridgehold.policies.explain import explain as explain_grant
from bridgehold.policies.files import Readings
from bridgehold.policies.reviewed import Review, ReviewState, state_of


def check(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Policy files; this layout's if left out.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Read policies strictly; every fault with its line. Exit 5 where there is one.

    Of this layout's, tenants, bridges and names in config.toml too: all that would refuse a session. Names of
    operations, resources and providers have to be some that a bridge here or config.toml has.
    """
    if files:
        texts = {path.stem: (_read(path), str(path)) for path in files}
        found = [str(path) for path in files]
        faults = [f"{fault.where}: {fault.message}" for fault in check_policies(texts)]
        registry = offline_registry()
        known = known_names(registry, registry.config)
        for text, file in texts.values():
            faults += unknown_names(text, file, known)
    else:
        found, faults = check_layout(default_layout())
    if json_output:
        print_json({"files": found, "faults": faults})
    else:
        for fault in faults:
            out.say((fault, "red"))
        err.say(f"{len(found)} file(s), {len(faults)} fault(s)")
    if faults:
        raise typer.Exit(PolicyError.exit_status)


def _read(path: Path) -> str:
    text = reads.read_text(path, PolicyError)
    if not text:  # as the host has it
        raise PolicyError(
            "is empty", where=str(path), hint="One that says nothing on purpose holds a comment."
        )
    return text


def explain(
    bridge: Annotated[str, typer.Argument(help="The bridge.", callback=typed_bridge)],
    tenant: ForTenant = LOCAL_TENANT,
    json_output: Annotated[bool, typer.Option("--json", help="Print the grant as JSON.")] = False,
) -> None:
    """The resolved grant, each value with the file and line that decided it."""
    parse_name(tenant, "tenant")
    registry = offline_registry()
    grant = registry.resolve_grant(tenant, offline_bridge(bridge, tenant, registry))
    if json_output:
        print_json(msgspec.to_builtins(grant))
        return
    out.say("grant of ", (bridge, "bold"), " for ", (tenant, "bold"), (f", {grant.digest}", "dim"))
    rows = [
        (row.key, row.value, short("; ".join((row.source, *(f"instead of {lost}" for lost in row.losing)))))
        for row in explain_grant(grant)
    ]
    table(("key", "value", dim("set by")), grouped(rows))


def show(
    name: Annotated[str, typer.Argument(help="The policy.")],
    tenant: Annotated[
        str, typer.Option(help="Within this tenant's ceiling.", callback=typed_tenant)
    ] = LOCAL_TENANT,
    json_output: Json = False,
) -> None:
    """A policy with all that it extends: each value, and what says it.

    What a bridge may do in the end, with what it asks for and what the machine gives, `explain` tells.
    """
    parse_name(tenant, "tenant")
    registry = offline_registry()
    policy, readings = registry.policy_for(name, tenant)
    own = readings.read("tenant", tenant)
    found, files = explain_grant(policy, own.file if own is not None else ""), readings.sources()
    known, state = _reviewed(name, readings)
    if json_output:
        review = {
            "state": state,
            **({"by": known.by, "at": known.at, "expires": known.expires} if known else {}),
        }
        print_json({"name": name, "tenant": tenant, "files": files, "review": review, "values": found})
        return
    out.say("policy ", (name, "bold"), *((" for ", (tenant, "bold")) if own is not None else ()))
    for file in files:
        out.say((f"  {short(file)}", "dim"), under="    ")
    by = f" by {known.by} at {known.at}; `bridgehold policy review` looks at the signature" if known else ""
    out.say((f"  {STATES.get(state, state)}{by}", "dim"), under="    ")
    rows = [
        (row.key, row.value, short("; ".join((_said(row), *(f"instead of {lost}" for lost in row.losing)))))
        for row in found
    ]
    table(("key", "value", dim("set by")), grouped(rows))


def _reviewed(name: str, readings: Readings) -> tuple[Review | None, ReviewState | Literal["shipped"]]:
    """As its review's file says: the key that tells whether that is signed is the running host's."""
    text = readings.read("policy", name)
    if text is None or text.file.startswith("shipped:"):
        return None, "shipped"
    return state_of(name, text, readings.read("review", name), None, time.time())


def _said(row: Row) -> str:
    """A shipped file's name says that it is one, and a default says so itself."""
    return f"ceiling, {row.source}" if row.by == "ceiling" else row.source


def offline_registry() -> Registry:
    """This layout's registry, without a host."""
    return layout_registry(default_layout())
