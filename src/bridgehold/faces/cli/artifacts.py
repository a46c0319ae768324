"""`bridgehold artifacts list | put | get | rm`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from bridgehold.faces.cli.asking import using
from bridgehold.faces.cli.known import typed_tenant
from bridgehold.faces.cli.options import Json
from bridgehold.faces.layout import dim, number
from bridgehold.faces.render import print_json, table
from bridgehold.faces.screen import err, out
from bridgehold.ids import LOCAL_TENANT
from bridgehold.policies.units import format_size

Tenant = Annotated[str, typer.Option(help="Whose.", callback=typed_tenant)]
Digest = Annotated[str, typer.Argument(help="sha256:…, as `artifacts list` shows it.")]


def list_artifacts(
    tenant: Tenant = LOCAL_TENANT,
    json_output: Json = False,
) -> None:
    """The tenant's artifacts, the newest last."""
    found = using(lambda client: client.files(tenant=tenant))
    if json_output:
        print_json(found)
        return
    rows = [
        (
            one.digest,
            format_size(one.size_bytes),
            one.name,
            datetime.fromtimestamp(one.created, UTC).isoformat(timespec="seconds"),
        )
        for one in found
    ]
    table(("digest", number("size"), "name", dim("since")), rows, empty=f"{tenant} keeps nothing")


def put(
    file: Annotated[Path, typer.Argument(help="What to keep.", exists=True, dir_okay=False)],
    name: Annotated[str, typer.Option(help="Its name; the file's own, if left out.")] = "",
    tenant: Tenant = LOCAL_TENANT,
    json_output: Json = False,
) -> None:
    """Keep a file; prints its digest."""
    made = using(lambda client: client.put(file, name=name, tenant=tenant))
    if json_output:
        print_json(made)
    else:
        out.say(made.digest, whole=True)
    err.say(f"{format_size(made.size_bytes)} kept for {tenant}")


def get(
    digest: Digest,
    to: Annotated[Path, typer.Argument(help="A new file.")],
    tenant: Tenant = LOCAL_TENANT,
    json_output: Json = False,
) -> None:
    """Write an artifact into a new file."""
    using(lambda client: client.get(digest, tenant=tenant, to=to))
    if json_output:
        print_json({"digest": digest, "path": str(to), "size_bytes": to.stat().st_size})
        return
    err.say(f"{to}: {format_size(to.stat().st_size)}")


def remove(digest: Digest, tenant: Tenant = LOCAL_TENANT, json_output: Json = False) -> None:
    """Forget an artifact."""
    using(lambda client: client.remove(digest, tenant=tenant))
    if json_output:
        print_json({"removed": digest, "tenant": tenant})
    else:
        err.say(f"removed {digest}")
