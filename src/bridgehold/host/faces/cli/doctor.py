"""`bridgehold doctor`: each barrier proved by doing it, with the remedy where it fails."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bridgehold.host.faces.cli.render import STATUS_STYLE, err, out, print_json


def doctor(
    json_output: Annotated[
        bool, typer.Option("--json", help="Print a list of {name,status,detail,remedy}.")
    ] = False,
) -> None:
    """Prove every barrier of this machine: PASS, CAUTION or FAIL, and the remedy. Exit 1 on a FAIL."""
    from bridgehold.host.checks import run_all

    checks = run_all(on_check=None if json_output else lambda name: err.print(f"[dim]… {name}[/]", end="\r"))
    failed = any(check.status == "FAIL" for check in checks)
    if json_output:
        print_json(
            [{"name": c.name, "status": c.status, "detail": c.detail, "remedy": c.remedy} for c in checks]
        )
        raise typer.Exit(1 if failed else 0)
    view = Table(title_justify="left", header_style="bold")
    for column in ("barrier", "", "what was seen"):
        view.add_column(column, overflow="fold")
    for check in checks:
        seen = escape(check.detail)
        if check.remedy and check.status != "PASS":
            seen += f"\n[bold]remedy[/] {escape(check.remedy)}"
        view.add_row(check.name, f"[{STATUS_STYLE[check.status]}]{check.status}[/]", seen)
    out.print(view)
    raise typer.Exit(1 if failed else 0)
