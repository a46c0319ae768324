"""`bridgehold shim`: an interpreter for DSPex and Snakepit that runs users' own scripts in sandboxes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bridgehold.faces.cli.run import Tenant
from bridgehold.faces.screen import err, out
from bridgehold.ids import LOCAL_TENANT


def shim(
    folder: Annotated[Path, typer.Argument(help="The folder to make, shaped like a virtual environment.")],
    profile: Annotated[str, typer.Option(help="The foreign bridge whose environment and policy apply.")],
    tenant: Tenant = LOCAL_TENANT,
) -> None:
    """Make a folder whose bin/python3 runs unmodified scripts in sandboxes (docs/how-to/dspex.md)."""
    from bridgehold.bridges.catalogue import Catalogue
    from bridgehold.config.layout import default_layout
    from bridgehold.config.load import load_config
    from bridgehold.errors import ConfigError, UsageError
    from bridgehold.faces.legacy.folder import write_shim
    from bridgehold.faces.legacy.values import ShimFile
    from bridgehold.ids import parse_name

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
    given = ShimFile(
        profile=profile,
        tenant=parse_name(tenant, "tenant"),
        config=str(layout.config),
        state=str(layout.state),
        run=str(layout.run),
    )
    program = write_shim(folder.absolute(), given)
    out.say(str(program), whole=True)
    err.say((f"runs scripts below {section.scripts} as {profile}, for tenant {tenant}", "dim"))
