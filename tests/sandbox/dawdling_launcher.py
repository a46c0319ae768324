"""The launcher, real in everything, whose own helpers dawdle where they are told: ``dawdling_launcher.py FILE …``.

FILE is a shared page: how many of its first byte's kind of helper dawdle as long as that byte stands.
A throttled cgroup does the same to them, and a machine with much else to do.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridgehold.sandbox import aside
from bridgehold.sandbox.fork import shell, template
from bridgehold.sandbox.launcher import main as launcher

PAGE = 4096
LEAVING, TEMPLATE, SHELL, ASIDE = 1, 2, 3, 4
"""At their end, with all that they held let go; before the mounts are taken; before namespaces are made; before
they do what may take long."""


def install(page: mmap.mmap) -> None:
    launcher_pid, leave = os.getpid(), os._exit

    def dawdle(kind: int) -> None:
        if page[0] == kind and os.getppid() == launcher_pid:
            page[kind] = 1
            while page[0] == kind:
                time.sleep(0.005)

    def leaving(status: int) -> None:
        if page[0] == LEAVING:
            # Said before: who has let go of all, and is not needed any more, may be killed.
            page[LEAVING] |= os.getppid() == launcher_pid
            os.closerange(0, 4096)
        dawdle(LEAVING)
        leave(status)

    def late(kind: int, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            dawdle(kind)
            return real(*arguments)

        return step

    os._exit = leaving  # type: ignore[assignment]  # it does end
    template._help = late(TEMPLATE, template._help)  # type: ignore[attr-defined]  # the launcher's own
    aside._work = late(ASIDE, aside._work)  # type: ignore[attr-defined]  # as above
    shell._help = late(SHELL, shell._help)  # type: ignore[attr-defined]  # as above


def main() -> int:
    with Path(sys.argv.pop(1)).open("r+b") as file:
        install(mmap.mmap(file.fileno(), PAGE))
    return launcher.main()


if __name__ == "__main__":
    raise SystemExit(main())
