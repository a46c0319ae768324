"""The launcher, real in everything, of short lists, few locks and little patience: what a flood takes a machine for.

A list of the machine's locks that is too long to be read takes thousands of them, and others use it too.
"""

from __future__ import annotations

from bridgehold.sandbox.launch import roots
from bridgehold.sandbox.launcher import main as launcher
from bridgehold.sandbox.launcher import uncounted

MOST, SEEN = 64, 1 << 13


def main() -> int:
    uncounted.MOST_LOCKS = MOST  # type: ignore[misc]  # for this process
    uncounted._FEW_LOCKS = MOST // 4
    uncounted.MOST_LONG = 2  # type: ignore[misc]  # as above
    uncounted._SHORT_LIST = uncounted._LONG_LIST = SEEN
    roots.SECONDS = 5.0  # type: ignore[misc]  # as above
    return launcher.main()


if __name__ == "__main__":
    raise SystemExit(main())
