"""A fresh sandbox per session, cold, forked and parked: of every shipped bridge.

The same as ``bridgehold bench --bridge NAME`` for each.
"""

from __future__ import annotations

import asyncio
import sys

from common import Row, show

from bridgehold.faces.bench.starts import measure

COUNT = 60
BRIDGES = ("python", "custom", "pandas", "dspy", "enhanced", "langchain", "transformers")


def main() -> None:
    rows: list[Row] = []
    for bridge in BRIDGES:
        figures = asyncio.run(measure(bridge, COUNT, lambda text: print(f"  {text}", file=sys.stderr)))
        rows += [Row(f.name, f.value, f.unit, f.baseline, f.ratio, f.bar, f.ok) for f in figures]
    show(rows)


if __name__ == "__main__":
    main()
