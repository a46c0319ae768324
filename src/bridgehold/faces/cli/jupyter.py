"""`bridgehold jupyter`: the kernel, for the front ends of this user."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bridgehold.errors import UsageError
from bridgehold.faces.cli.known import typed_bridge, typed_tenant
from bridgehold.faces.cli.options import Json
from bridgehold.faces.layout import Column
from bridgehold.faces.render import print_json, table
from bridgehold.faces.screen import out
from bridgehold.ids import LOCAL_TENANT, parse_name


def install(
    user: Annotated[bool, typer.Option("--user", help="For this user; so it is without --prefix.")] = False,
    prefix: Annotated[
        Path | None, typer.Option(help="Below this folder instead, such as a virtual environment's.")
    ] = None,
    name: Annotated[str, typer.Option(help="What front ends call it.")] = "sandbox",
    display_name: Annotated[str, typer.Option(help="What people see.")] = "",
    bridge: Annotated[
        str, typer.Option(help="The bridge whose environment cells run in.", callback=typed_bridge)
    ] = "python",
    tenant: Annotated[
        str, typer.Option(help="On whose behalf cells run.", callback=typed_tenant)
    ] = LOCAL_TENANT,
    trust_forms: Annotated[
        bool,
        typer.Option("--trust-forms", help="HTML and the like act in the page as if no sandbox were there."),
    ] = False,
    json_output: Json = False,
) -> None:
    """Let notebooks run their cells in a sandbox: Jupyter, VS Code, nbclient find the kernel then."""
    from bridgehold.faces.jupyter import installed

    if user and prefix is not None:
        raise UsageError("it is for this user, or below a folder", where="--prefix")
    parse_name(bridge, "bridge")
    parse_name(tenant, "tenant")
    made = installed.install(
        name,
        display_name=display_name or f"Python ({name})",
        bridge=bridge,
        tenant=tenant,
        trust_forms=trust_forms,
        prefix=prefix,
    )
    if json_output:
        print_json(made)
    else:
        out.say(f"kernel {made.name} in ", (made.folder, "dim"))


def list_kernels(json_output: Json = False) -> None:
    """The kernels of ours that a front end of this user's finds."""
    from bridgehold.faces.jupyter import installed

    found = installed.find()
    if json_output:
        print_json(found)
        return
    rows = [
        (one.name, one.bridge, one.tenant, "trusted" if one.trust_forms else "framed", one.folder)
        for one in found
    ]
    columns = (Column("kernel"), Column("bridge"), Column("tenant"), Column("forms"), Column("folder"))
    table(columns, rows)


def uninstall(
    name: Annotated[str, typer.Argument(help="As `bridgehold jupyter list` has it.")] = "sandbox",
    json_output: Json = False,
) -> None:
    """Remove a kernel of ours; those of others stay."""
    from bridgehold.faces.jupyter import installed

    gone = installed.uninstall(name)
    if json_output:
        print_json(gone)
    else:
        out.say(f"removed kernel {gone.name}")
