"""The entry point: no traceback ever reaches a user."""

from __future__ import annotations

import signal
import sys

from bridgehold.faces.cli.border import guarded, named_output


def main() -> None:
    """The ``bridgehold`` command. Exit status: the error's own (docs/reference/errors.md)."""
    status = guarded(_run)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nothing is left to stop in order
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise SystemExit(status)


def _run() -> object:
    sys.stdout = named_output(sys.stdout)
    if sys.argv[1:] in (["--help"], ["-h"]):
        from bridgehold.faces.cli.tree import page

        sys.stdout.write(page())
        return 0
    if sys.argv[1:2] == ["python"]:
        from bridgehold.faces.cli.ahead import begin

        begin(sys.argv[2:])
    from bridgehold.faces.cli.commands import app

    return app.main(prog_name="bridgehold", standalone_mode=False)
