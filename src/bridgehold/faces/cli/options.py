"""Options that many commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from bridgehold.faces.cli.known import typed_tenant

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ForTenant = Annotated[str, typer.Option("--tenant", help="For this tenant.", callback=typed_tenant)]
OfTenant = Annotated[str, typer.Option("--tenant", help="Of this tenant alone.", callback=typed_tenant)]
