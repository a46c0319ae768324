"""`bridgehold stdio`: a pool worker for DSPex and Snakepit in front of one of our bridges."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from bridgehold.faces.cli.known import typed_bridge
from bridgehold.faces.cli.run import Tenant
from bridgehold.ids import LOCAL_TENANT


class FormatChoice(StrEnum):
    """How frames are written: the first frame decides, or one format only."""

    AUTO = "auto"
    JSON = "json"
    MSGPACK = "msgpack"


def stdio(
    bridge: Annotated[str, typer.Option("--bridge", help="The bridge that answers.", callback=typed_bridge)],
    tenant: Tenant = LOCAL_TENANT,
    frame_format: Annotated[
        FormatChoice,
        typer.Option("--format", help="What a caller may send; auto: either, frame by frame."),
    ] = FormatChoice.AUTO,
) -> None:
    """Answer DSPex's and Snakepit's frames on stdin and stdout, as one of their pool workers."""
    from bridgehold.bridges.legacy.bodies import FORMATS, Format
    from bridgehold.client.client import Client, Host
    from bridgehold.errors import BridgeholdError
    from bridgehold.faces.legacy.pipes import PipeIn, PipeOut, take_standard
    from bridgehold.faces.legacy.run import frames, say, serve
    from bridgehold.faces.legacy.stdio import Worker
    from bridgehold.faces.legacy.values import Outcome
    from bridgehold.faces.render import print_error

    allowed: tuple[Format, ...] = tuple(name for name in FORMATS if frame_format in {"auto", name})
    frames_in, frames_out = take_standard()

    async def run() -> Outcome:
        async with Host.open() as client:
            refused = await _refusal(client, bridge, tenant)
            sink = PipeOut(frames_out)
            worker = Worker(client, sink, bridge=bridge, tenant=tenant, formats=allowed)
            outcome = await serve(worker, PipeIn(frames_in), sink, frames())
            return outcome if refused is None else Outcome(status=refused)

    async def _refusal(client: Client, bridge: str, tenant: str) -> int | None:
        """The exit status where nothing can ever answer; said before a frame is read."""
        try:
            await client.describe(bridge, tenant=tenant)
        except BridgeholdError as error:
            print_error(error, as_json=False)
            return error.exit_status
        return None

    outcome = asyncio.run(run())
    if outcome.message:
        say(outcome.message)
    raise typer.Exit(outcome.status)
