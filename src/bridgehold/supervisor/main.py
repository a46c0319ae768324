"""``python -m bridgehold.supervisor.main``: the supervisor's process, for a private host."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bridgehold.config.layout import Layout
from bridgehold.error_texts import from_os, to_log_text
from bridgehold.errors import BridgeholdError
from bridgehold.hardening import leave, open_standard, speak_heedless
from bridgehold.supervisor.owner import Owner
from bridgehold.supervisor.supervise import run


def main() -> int:
    """Run a host's supervisor for the folders of the command line, until it ends. Returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--lifeline", type=int, default=-1)
    parser.add_argument("--ready", type=int, default=-1)
    parser.add_argument("--stderr", type=int, default=-1)
    arguments = parser.parse_args()
    open_standard()
    speak_heedless()
    layout = Layout(config=arguments.config, state=arguments.state, run=arguments.run)
    owner = Owner(lifeline=arguments.lifeline, ready=arguments.ready, stderr=arguments.stderr)
    try:
        return run(layout, owner=owner)
    except (BridgeholdError, OSError) as raised:
        error = from_os(raised) if isinstance(raised, OSError) else raised
        sys.stderr.write(to_log_text(error))
        return error.exit_status


if __name__ == "__main__":
    leave(main())
