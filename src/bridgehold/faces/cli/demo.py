"""`bridgehold demo`: the main job, made to be watched."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer


def demo(
    home: Annotated[
        Path | None, typer.Option(help="Where the demo keeps its environments and audit.")
    ] = None,
    real_key: Annotated[
        bool,
        typer.Option("--real-key", help="Do the real work with your own stored openai key: it is spent."),
    ] = False,
) -> None:
    """Show a theft that fails, work with a key that isn't there, bombs, and an audit that proves itself."""
    from bridgehold.faces.demo.story import run_demo

    raise typer.Exit(asyncio.run(run_demo(home, real_key=real_key)))
