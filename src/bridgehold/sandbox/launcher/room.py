"""The launcher's own descriptors: a start is refused while they are enough for what runs, and not before.

With a full table the launcher could not even end what it has started.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from bridgehold.sandbox.limits import shortage

STARTING, RUNNING = 32, 8
"""What a sandbox takes at the most while it starts, and once it runs: a cold one has 21 and then 4, a zygote
24 and 8, a fork 25 and 6."""
KEPT = 96
"""For the loop's own: an end opens 64 processes at once, a look a file or two."""


def demand(most: int, workers: Iterable[bool]) -> None:
    """Raise `ShortageError` unless one more sandbox finds the descriptors that it takes (pure).

    `most`: of this process. `workers`: of each sandbox, whether it has started.
    """
    promised = KEPT + sum(RUNNING if started else STARTING for started in workers)
    if promised + STARTING > most:
        raise shortage.short_of(
            errno.EMFILE,
            f"{promised} of {most} are promised, and a start takes {STARTING}",
            hint="End sessions, or raise the service's LimitNOFILE=.",
        )
