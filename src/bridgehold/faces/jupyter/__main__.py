"""``python -P -m bridgehold.faces.jupyter -f FILE``, as a front end starts the kernel."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from bridgehold.error_texts import to_log_text
from bridgehold.errors import BridgeholdError
from bridgehold.faces.jupyter.kernel import Kernel
from bridgehold.faces.jupyter.place import Place
from bridgehold.faces.jupyter.wire import Wire, read_ports
from bridgehold.ids import LOCAL_TENANT, parse_name


def main() -> int:
    """Serve one front end; the exit status."""
    parser = argparse.ArgumentParser(prog="bridgehold.faces.jupyter")
    parser.add_argument("-f", dest="file", type=Path, required=True, help="the connection file")
    parser.add_argument("--bridge", default="python")
    parser.add_argument("--tenant", default=LOCAL_TENANT)
    parser.add_argument("--trust-forms", action="store_true")
    given = parser.parse_args()
    try:
        place = Place(parse_name(given.bridge, "bridge"), parse_name(given.tenant, "tenant"))
        asyncio.run(_serve(given.file, place, trusted=given.trust_forms))
    except BridgeholdError as error:
        print(to_log_text(error), file=sys.stderr)
        return error.exit_status
    return 0


async def _serve(file: Path, place: Place, *, trusted: bool) -> None:
    wire = Wire(read_ports(file))
    try:
        kernel = Kernel(wire, place, trusted=trusted)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, kernel.interrupt)
        loop.add_signal_handler(signal.SIGTERM, kernel.stop)
        await kernel.serve()
    finally:
        await place.aclose()
        wire.close()


if __name__ == "__main__":
    sys.exit(main())
