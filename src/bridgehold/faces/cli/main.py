"""The application and its entry point: no traceback ever reaches a user."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from bridgehold.faces.cli import (
    artifacts,
    audit,
    bench,
    bridges,
    chaos,
    demo,
    doctor,
    observe,
    policy,
    run,
    secrets,
    serve,
    sessions,
    settings,
    shell,
    shim,
    stdio,
    tenants,
    usage,
)
from bridgehold.faces.cli.border import guarded

app = typer.Typer(
    name="bridgehold",
    help="A sandboxed execution host for ML-framework bridges.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("bench")(bench.bench)
app.command("chaos")(chaos.chaos)
app.command("doctor")(doctor.doctor)
app.command("run")(run.run)
app.command("shell")(shell.shell)
app.command("shim")(shim.shim)
app.command("stdio")(stdio.stdio)
app.add_typer(sessions.app, name="sessions")
app.command("top")(observe.top)
app.command("usage")(usage.usage)
app.command("metrics")(observe.metrics)
app.command("profile")(observe.profile)
app.command("zygotes")(sessions.zygotes)
app.command("resources")(sessions.resources)
app.command("logs")(sessions.logs)
app.command("serve")(serve.serve)
app.command("stop")(serve.stop)
app.command("restart")(serve.restart)
app.command("config")(settings.config)
app.command("reload")(settings.reload)
app.command("init")(serve.init)
app.command("why")(audit.why)
app.add_typer(bridges.app, name="bridge")
app.add_typer(policy.app, name="policy")
app.add_typer(secrets.app, name="secrets")
app.add_typer(tenants.tenant, name="tenant")
app.add_typer(tenants.token, name="token")
app.add_typer(audit.app, name="audit")
app.add_typer(artifacts.app, name="artifacts")


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"bridgehold {version('bridgehold')}\n")
        raise typer.Exit


@app.callback()
def callback(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Nothing runs before a command's own code."""


def main() -> None:
    """The ``bridgehold`` command. Exit status: the error's own (docs/reference/errors.md)."""
    raise SystemExit(guarded(lambda: app(prog_name="bridgehold", standalone_mode=False)))
