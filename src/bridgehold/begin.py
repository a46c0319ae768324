"""``python -m bridgehold.begin MODULE …``: how the supervisor starts a process, by the `main` of its module.

A twelfth of a start went into looking for garbage among modules that are being loaded; they are none.
"""

from __future__ import annotations

import gc
import importlib
import sys

from bridgehold.hardening import leave


def main() -> int:
    """Load the module that the command line names, and run it with the rest. Returns its exit status."""
    gc.disable()
    module = importlib.import_module(sys.argv.pop(1))
    gc.freeze()
    gc.enable()
    status: int = module.main()
    return status


if __name__ == "__main__":
    leave(main())
