"""The simulated provider as a program: ``python -m bridgehold.bridges.kit --help``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from bridgehold import writes
from bridgehold.bridges.kit.behaviour import Behaviour
from bridgehold.bridges.kit.faults import FAULTS, Faults
from bridgehold.bridges.kit.provider import Provider
from bridgehold.bridges.kit.refusals import ERRORS


async def serve(port: int, key_file: str, behaviour: Behaviour) -> None:
    """Serve until cancelled. The key is read from `key_file`, or a new one is written there (0600)."""
    key = ""
    if key_file and Path(key_file).exists():  # noqa: ASYNC240 - once, before anything is served
        key = Path(key_file).read_text(encoding="ascii").strip()  # noqa: ASYNC240 - as above
    async with Provider.open(port=port, key=key) as provider:
        provider.behave(behaviour)
        if key_file and not key:
            with writes.create(Path(key_file)) as file:
                file.write(provider.key.encode())
        where = key_file or "no file (--key-file keeps it)"
        sys.stdout.write(f"{provider.base_url}\nkey: {where}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    """The command line ``python -m bridgehold.bridges.kit``: serve a simulated provider until interrupted."""
    parser = argparse.ArgumentParser(description="A local provider in the shapes of three paid ones.")
    parser.add_argument("--port", type=int, default=0, help="0 (default) takes a free one; it is printed")
    parser.add_argument("--key-file", default="", help="read the key here, or write a new one (0600)")
    parser.add_argument("--latency-ms", type=int, default=0, help="before each answer")
    parser.add_argument("--chunk-ms", type=int, default=0, help="between two events of a stream")
    parser.add_argument("--error", choices=ERRORS, default="", help="answer everything with this error")
    parser.add_argument("--retry-after", type=int, default=0, help="seconds that 429 asks to wait")
    parser.add_argument("--faults", type=int, metavar="SEED", help="faults by chance, the same for a seed")
    parser.add_argument("--fault", action="append", choices=FAULTS, default=[], help="of this kind only")
    parser.add_argument("--share", type=float, default=0.3, help="of requests at which a fault begins")
    given = parser.parse_args()
    faults = None
    if given.faults is not None or given.fault:
        kinds = tuple(given.fault) or FAULTS
        faults = Faults(seed=given.faults or 0, share=given.share, kinds=kinds)
    behaviour = Behaviour(
        latency_ms=given.latency_ms,
        chunk_ms=given.chunk_ms,
        error=given.error,
        retry_after_s=given.retry_after,
        faults=faults,
    )
    try:
        asyncio.run(serve(given.port, given.key_file, behaviour))
    except KeyboardInterrupt:
        return
    except OSError as failed:
        sys.exit(f"{failed.filename or f'--port {given.port}'}: {failed.strerror}")
