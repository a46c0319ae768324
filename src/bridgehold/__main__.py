"""``bridgehold``, and ``python -m bridgehold``."""

from __future__ import annotations

import signal


def main() -> None:
    """The command line. Until it is loaded there is nothing to stop in order: Ctrl-C simply ends it."""
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from bridgehold.faces.cli.main import main as run

    signal.signal(signal.SIGINT, interrupt)
    run()


if __name__ == "__main__":
    main()
