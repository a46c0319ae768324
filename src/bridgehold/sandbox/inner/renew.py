"""After a fork: everything that must be the session's own, and not its zygote's, is renewed.

Run in the fork, in its own namespaces, before any code of the bridge. `docs/reference/fork-start.md`
lists what is renewed and what siblings go on sharing.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import time
from typing import Any, Callable, Iterable, Mapping

from . import interpreter

_ENTROPY_BYTES = 48


def renew(environment: Mapping[str, str], threads: int, setters: Iterable[Callable[[int], Any]]) -> None:
    """`environment` becomes the whole of it; pools get `threads` threads by their `setters`."""
    renew_process(environment)
    renew_generators()
    renew_names()
    if threads > 1:
        for setter in setters:
            setter(threads)


def renew_process(environment: Mapping[str, str]) -> None:
    """Environment, time zone, signals and file mode."""
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    signal.set_wakeup_fd(-1)
    interpreter.default_signals()
    os.umask(0o022)


def renew_generators() -> None:
    """Every generator that is global: two siblings must never draw the same."""
    random.seed()
    libc = ctypes.CDLL(None)
    for seed in ("srandom", "srand48"):  # what extensions draw from
        getattr(libc, seed)(ctypes.c_uint(int.from_bytes(os.urandom(4), "big")))
    # OpenSSL notices a fork by its pid, and a fork has its zygote's: each is 2 in its own namespace.
    ssl = sys.modules.get("ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(_ENTROPY_BYTES), float(_ENTROPY_BYTES))
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        try:
            numpy.seed()
        except (
            TypeError
        ):  # another kind of generator was put in the place of numpy's own, which alone reseeds
            numpy.set_bit_generator(type(numpy.get_bit_generator())())
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(int.from_bytes(os.urandom(8), "big", signed=True))


def renew_names() -> None:
    """What makes names and keys, and has a state: temporary files, time-based uuids, child processes."""
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None
        tempfile.tempdir = None
    uuid: Any = sys.modules.get("uuid")
    if uuid is not None:
        uuid._generate_time_safe = None  # the C library's has a state of its own, which was copied
        uuid._UuidCreate = None
        for version in ("", "_v6", "_v7"):
            setattr(uuid, f"_last_timestamp{version}", None)
        uuid._node = random.getrandbits(48) | (1 << 40)
    synchronize: Any = sys.modules.get("multiprocessing.synchronize")
    if synchronize is not None:
        synchronize.SemLock._rand = synchronize.tempfile._RandomNameSequence()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)
        process.current_process()._config.pop("tempdir", None)
