"""`bridgehold doctor`: each barrier proved by doing it, with the remedy where it fails."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bridgehold.config.layout import default_layout
from bridgehold.config.load import load_config
from bridgehold.faces.render import STATUS_STYLE, err, out, print_json
from bridgehold.sandbox.doctor import as_json


def doctor(
    json_output: Annotated[
        bool, typer.Option("--json", help="Print a list of {name,status,detail,remedy}.")
    ] = False,
) -> None:
    """Prove every barrier of this machine: PASS, CAUTION or FAIL, and the remedy. Exit 1 on a FAIL."""
    from bridgehold.supervisor.checks import run_all

    def show(name: str) -> None:
        if not json_output and err.is_terminal:
            err.print(f"[dim]… {name:<40}[/]", end="\r")

    layout = default_layout()
    checks = run_all(layout, load_config(layout.config_file), on_check=show)
    failed = any(check.status == "FAIL" for check in checks)
    if json_output:
        print_json(as_json(checks))
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
