"""`bridgehold chaos` and `bridgehold bridge provider`: the test kit from the command line."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from bridgehold.errors import UsageError
from bridgehold.faces.cli.known import offline_bridge, typed_bridge
from bridgehold.faces.cli.run import parse_deadline, read_arguments
from bridgehold.faces.http.listening import refused
from bridgehold.faces.layout import Column, number
from bridgehold.faces.render import STATUS_STYLE, print_json, table
from bridgehold.faces.screen import err
from bridgehold.ids import LOCAL_TENANT


def chaos(
    bridge: Annotated[str, typer.Argument(help="The bridge to try.", callback=typed_bridge)],
    seed: Annotated[int, typer.Option(help="The same seed makes the same faults in the same order.")] = 0,
    command: Annotated[
        list[str] | None,
        typer.Option(
            "--command", help="'OPERATION {JSON}', instead of those made from the manifest; may be repeated."
        ),
    ] = None,
    deadline: Annotated[str, typer.Option(help="Of each command.")] = "5s",
    only: Annotated[
        list[str] | None, typer.Option(help="Only this fault, such as 'worker frozen'; may be repeated.")
    ] = None,
    keep: Annotated[
        str, typer.Option(help="Keep the private host's folder, with its audit, as this one.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="A list of {fault, status, ended, …}.")] = False,
) -> None:
    """Try a bridge while things go wrong, on a private host; exit status 1 where something ends badly."""
    from bridgehold.faces.testing.chaos import chaos as run
    from bridgehold.faces.testing.exercise import Command
    from bridgehold.faces.testing.outcomes import Outcome

    offline_bridge(bridge, LOCAL_TENANT)
    commands = []
    for text in command or []:
        operation, _, arguments = text.strip().partition(" ")
        commands.append(Command(operation, read_arguments(arguments or "{}")))

    async def gather() -> list[Outcome]:
        outcomes = run(
            bridge,
            seed=seed,
            deadline_ms=parse_deadline(deadline),
            commands=commands,
            only=only or (),
            keep=keep,
            say=lambda text: err.say((f"… {text}", "dim")),
        )
        return [outcome async for outcome in outcomes]

    found = asyncio.run(gather())
    if as_json:
        print_json(found)
    else:
        rows = [
            (
                one.status,
                one.fault,
                _ended(one.ended),
                f"{one.longest_ms} ms" if one.ended else "",
                one.detail,
            )
            for one in found
        ]
        table((Column("", styles=STATUS_STYLE), "fault", "commands ended", number("longest"), "detail"), rows)
    if any(one.status == "FAIL" for one in found):
        raise typer.Exit(1)


def _ended(ended: dict[str, int]) -> str:
    return ", ".join(f"{code} {count}" for code, count in ended.items())


def provider(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: a free one, which is printed.")] = 0,
    key_file: Annotated[str, typer.Option(help="Read its key here, or write a new one (0600).")] = "",
    latency_ms: Annotated[int, typer.Option(help="Before each answer.")] = 0,
    chunk_ms: Annotated[int, typer.Option(help="Between two events of a stream.")] = 0,
    error: Annotated[str, typer.Option(help="Answer everything with it: auth, rate_limit, …")] = "",
    retry_after: Annotated[int, typer.Option(help="Seconds that a 429 asks to wait.")] = 0,
    fault: Annotated[list[str] | None, typer.Option(help="reset, garbage, drip, …; may be repeated.")] = None,
    share: Annotated[float, typer.Option(help="Of requests at which a fault begins, 0 to 1.")] = 0.3,
    seed: Annotated[int, typer.Option(help="The same seed makes the same faults.")] = 0,
) -> None:
    """Play a provider on this machine, in the shapes of three; until Ctrl-C."""
    import msgspec

    from bridgehold.bridges.kit.behaviour import Behaviour
    from bridgehold.bridges.kit.serving import serve

    given = {
        "latency_ms": latency_ms,
        "chunk_ms": chunk_ms,
        "error": error,
        "retry_after_s": retry_after,
        "faults": {"seed": seed, "share": share, "kinds": fault} if fault else None,
    }
    try:
        behaviour = msgspec.convert(given, type=Behaviour)
    except msgspec.ValidationError as fault_found:
        raise UsageError(f"no such behaviour: {fault_found}") from None
    try:
        asyncio.run(serve(port, key_file, behaviour))
    except KeyboardInterrupt:
        return
    except OSError as failed:
        if failed.filename is not None:  # the key's file, not the port
            raise
        raise refused(f"127.0.0.1:{port}", port, failed, "--port") from failed
