"""The entry point: no traceback ever reaches a user."""

from __future__ import annotations

import sys

from bridgehold.faces.cli.border import guarded, named_output


def main() -> None:
    """The ``bridgehold`` command. Exit status: the error's own (docs/reference/errors.md)."""
    raise SystemExit(guarded(_run))


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
