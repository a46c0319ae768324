"""`bridgehold bench`: how long sessions take to begin on this machine, and what they cost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from bridgehold.faces.cli.known import typed_bridge
from bridgehold.faces.layout import grouped, number
from bridgehold.faces.render import print_json, table
from bridgehold.faces.screen import err

if TYPE_CHECKING:  # its home is imported where it is used
    from bridgehold.faces.bench.figures import Figure

WAYS = (": cold", ": fork", ": parked")


def bench(
    bridge: Annotated[str, typer.Option(help="The bridge to measure.", callback=typed_bridge)] = "python",
    count: Annotated[int, typer.Option(min=5, max=10_000, help="Sessions for each figure.")] = 40,
    as_json: Annotated[bool, typer.Option("--json", help="A list of {name, value, unit, …}.")] = False,
) -> None:
    """Time sessions that start cold, forked or from the warm pool: first reply, memory, sessions a second."""
    from bridgehold.faces.bench.starts import measure

    figures = asyncio.run(measure(bridge, count, lambda text: err.say((f"… {text}", "dim"))))
    if as_json:
        print_json(figures)
        return
    table(("figure", number("value"), number("ratio"), "bar", ""), grouped(map(_row, figures)))


def _row(one: Figure) -> tuple[str, ...]:
    """What was measured of one way to start stands under it."""
    way, _, name = one.name.partition(", ")
    if not way.endswith(WAYS):
        way, _, name = one.name.partition(": ")
    return (
        f"{way}.{name}",
        f"{one.value:.4g} {one.unit}",
        f"{one.ratio:.3f} × cold" if one.ratio is not None and one.ratio != 1 else "",
        one.bar,
        "" if one.ok is None else "holds" if one.ok else "misses",
    )
