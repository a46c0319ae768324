"""`bridgehold doctor`: each barrier proved by doing it, with the remedy where it fails."""

from __future__ import annotations

from typing import Annotated

import typer

from bridgehold.config.layout import default_layout
from bridgehold.config.load import load_config
from bridgehold.faces.layout import Column
from bridgehold.faces.render import STATUS_STYLE, print_json, table
from bridgehold.faces.screen import err
from bridgehold.sandbox.doctor import as_json
from bridgehold.sandbox.doctor.model import Check


def doctor(
    json_output: Annotated[
        bool, typer.Option("--json", help="Print a list of {name,status,detail,remedy}.")
    ] = False,
) -> None:
    """Prove every barrier of this machine: PASS, CAUTION or FAIL, and the remedy. Exit 1 on a FAIL."""
    from bridgehold.supervisor.checks import run_all

    def show(name: str) -> None:
        if not json_output and err.is_terminal:
            err.say((f"… {name:<40}", "dim"), end="\r", whole=True)
            err.file.flush()

    layout = default_layout()
    checks = run_all(layout, load_config(layout.config_file), on_check=show)
    failed = any(check.status == "FAIL" for check in checks)
    if json_output:
        print_json(as_json(checks))
        raise typer.Exit(1 if failed else 0)
    table(
        ("barrier", Column("", styles=STATUS_STYLE), "what was seen"),
        [(one.name, one.status, _seen(one)) for one in checks],
    )
    raise typer.Exit(1 if failed else 0)


def _seen(check: Check) -> str:
    remedy = f"\nremedy: {check.remedy}" if check.remedy and check.status != "PASS" else ""
    return f"{check.detail}{remedy}"
