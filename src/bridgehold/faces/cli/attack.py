"""`bridgehold attack`: hostile acts in real sessions of a bridge, and a signed report of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bridgehold.config.layout import default_layout
from bridgehold.errors import UsageError
from bridgehold.faces.cli.known import typed_bridge
from bridgehold.faces.cli.options import ForTenant, Json
from bridgehold.faces.layout import Column, grouped
from bridgehold.faces.render import print_json, table
from bridgehold.faces.screen import err, out
from bridgehold.ids import LOCAL_TENANT, nearest, parse_name

_STYLES = {"held": "green", "NOT HELD": "bold red", "not tried": "yellow"}


def attack(
    bridge: Annotated[
        str, typer.Argument(help="The bridge in whose sessions they run.", callback=typed_bridge)
    ] = "python",
    tenant: ForTenant = LOCAL_TENANT,
    policy: Annotated[str, typer.Option(help="Try this policy instead of its own, by a probe.")] = "",
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this act; may be repeated.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the acts, and run none.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write the report: FILE.md, FILE.json, and FILE.sig, which signs both."
        ),
    ] = None,
    verify: Annotated[
        Path | None, typer.Option("--verify", help="Check the signature of a report, and run nothing.")
    ] = None,
    keys: Annotated[
        list[Path] | None, typer.Option("--key", help="With --verify: a public key that may have signed.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Run hostile acts in sandboxes of this bridge, under its policy; exit 1 where a barrier did not hold.

    Each has a session of its own, is bounded, and reaches for nothing but what this command put there itself.
    """
    from bridgehold.faces.attack.acts import ALL, BY_NAME

    if verify is not None:
        _verify(verify, keys or [], json_output=json_output)
        return
    unknown = [name for name in only or [] if name not in BY_NAME]
    if unknown:
        hint = "`bridgehold attack --list` names them."
        raise UsageError(f"there is no act {unknown[0][:60]!r}{nearest(unknown[0], BY_NAME)}", hint=hint)
    acts = tuple(act for act in ALL if not only or act.name in only)
    if listed:
        if json_output:
            print_json(acts)
        else:
            table(("act", "barrier", "tries"), [(act.name, act.barrier, act.tries) for act in acts])
        return
    from bridgehold.faces.attack import report as reports
    from bridgehold.faces.attack.whole import run_all

    layout = default_layout()
    named = parse_name(policy, "policy") if policy else ""
    made = run_all(layout, parse_name(bridge, "bridge"), tenant, acts, _say, named)
    if output is not None:
        for path in reports.write(made, output, layout):
            err.say(f"wrote {path}")
    if json_output:
        print_json(made)
    else:
        rows = [
            (one.name, one.came, one.barrier, f"{one.inside}; {'; '.join(one.outside)}") for one in made.acts
        ]
        table(("act", Column("", styles=_STYLES), "barrier", "what was seen"), grouped(rows))
        out.say(", ".join(f"{count} {came}" for came, count in made.counts.items()))
    if not made.held:
        raise typer.Exit(1)


def _verify(path: Path, keys: list[Path], *, json_output: bool) -> None:
    from bridgehold.faces.attack import report as reports

    made = reports.verify(path, reports.keys_of(keys, default_layout()))
    if json_output:
        print_json(made)
        return
    out.say(
        f"signed at {made.time} by {made.key}, for {made.by}: {', '.join(name for name, _ in made.files)}"
    )


def _say(act: str) -> None:
    err.say((f"… {act}", "dim"))
