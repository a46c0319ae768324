"""What an interpreter that a guest starts shares with its worker: the order of `sys.path`, what it may use.

It is found as `sitecustomize`, by way of PYTHONPATH, by whatever Python 3 there is: so nothing new is
spoken here, and nothing imported but what `site` has. The worker itself calls `share_limits`.
"""

import os
import sys

OWN = ("/opt/bridgehold/sdk", "/bridge")
COUNT = "PYTHON_CPU_COUNT"
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""What joblib divides among its workers, where `os.environ` doesn't say it already."""


def order_path() -> None:
    """The SDK and the bridge behind the standard library, where PYTHONPATH puts them before it."""
    own = [entry for entry in sys.path if entry in OWN]
    rest = [entry for entry in sys.path if entry not in OWN]
    library = os.path.dirname(os.__file__)
    known = [n for n, entry in enumerate(rest) if entry in (library, library + "/lib-dynload")]
    place = known[-1] + 1 if known else 0
    sys.path[:] = rest[:place] + own + rest[place:]


def share_limits() -> None:
    """Processors and memory, as Python tells of them."""
    share_processors()
    share_memory()


def share_memory() -> None:
    """`os.sysconf` says of memory what /proc says. The C library asks the kernel, of the machine."""
    whole = getattr(os.sysconf, "__wrapped__", os.sysconf)
    told = {"SC_PHYS_PAGES": "MemTotal:", "SC_AVPHYS_PAGES": "MemAvailable:"}
    fields = {key: field for name, field in told.items() for key in (name, os.sysconf_names.get(name))}

    def sysconf(name: "str | int") -> int:
        field = fields.get(name) if isinstance(name, (str, int)) else None
        if field is None:
            return whole(name)
        with open("/proc/meminfo", encoding="ascii") as page:
            kib = next(int(line.split()[1]) for line in page if line.startswith(field))
        return kib * 1024 // whole("SC_PAGE_SIZE")

    _put("sysconf", sysconf, whole)


def share_processors() -> None:
    """Who asks Python for the processors it may use is told as many as the session's share is worth.

    The kernel lets it use any, since a session that is kept on some could not have the others' free time.
    C libraries read how many threads they are to start from variables that `os.environ` doesn't show.
    """
    count = os.environ.get(COUNT, "")
    if not count.isdigit():
        return
    whole = getattr(os.sched_getaffinity, "__wrapped__", os.sched_getaffinity)

    def sched_getaffinity(pid: int) -> "set[int]":
        found = whole(pid)
        most = os.environ.get(COUNT, "")
        return set(sorted(found)[: int(most)]) if most.isdigit() and int(most) else found

    _put("sched_getaffinity", sched_getaffinity, whole)
    for name in POOLS:
        if os.environ.get(name, count) == count:
            os.putenv(name, count)
            vars(os.environ)["_data"].pop(os.fsencode(name), None)


def _put(name: str, ours: object, whole: object) -> None:
    """As `functools.wraps` leaves it."""
    for key, value in (("__doc__", whole.__doc__), ("__module__", whole.__module__), ("__wrapped__", whole)):
        setattr(ours, key, value)
    setattr(os, name, ours)


if __name__ == "sitecustomize":
    order_path()
    share_limits()
