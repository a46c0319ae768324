"""Quiesces what the first use of a library leaves behind: idle pools of threads, and event loops.

A zygote may have neither: a thread can't be forked, and a loop holds descriptors that every fork would
share. Each fork makes its own when it needs one.
"""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any, List

_JOIN_SECONDS = 5.0


def quiesce() -> None:
    """Both, of whatever is alive in this process: a module that nobody has imported has none."""
    alive = gc.get_objects()
    pools: Any = sys.modules.get("concurrent.futures.thread")
    for pool in _of(alive, pools.ThreadPoolExecutor) if pools else ():
        _quiesce_pool(pool)
    events: Any = sys.modules.get("asyncio.events")
    for loop in _of(alive, events.AbstractEventLoop) if events else ():
        if not loop.is_running() and not loop.is_closed():
            loop.close()
    policy: Any = getattr(events, "_event_loop_policy", None)
    if policy is not None and hasattr(policy, "_local"):  # a module's own policy stays; its closed loop goes
        policy._local = type(policy._local)()


def _of(objects: List[Any], kind: type) -> List[Any]:
    """Those of `kind`, by their type: asking an object for its class may run code of its own."""
    return [one for one in objects if issubclass(type(one), kind)]


def _quiesce_pool(pool: Any) -> None:
    """End its idle threads, and leave it as if it had not been used yet: it makes new ones."""
    if not pool._threads or pool._shutdown:
        return
    pool._shutdown = True  # its threads end at the next item; `shutdown` itself would be for good
    for _ in pool._threads:
        pool._work_queue.put(None)
    for thread in list(pool._threads):
        thread.join(_JOIN_SECONDS)
    pool._threads.clear()
    pool._idle_semaphore = threading.Semaphore(0)
    while not pool._work_queue.empty():
        pool._work_queue.get_nowait()
    pool._shutdown = False
