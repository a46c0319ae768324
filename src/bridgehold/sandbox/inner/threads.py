"""Thread pools of numeric libraries: one thread in the zygote, which has to have one, and then as granted."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, Callable, List

_SETTERS = (
    "openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "scipy_openblas_set_num_threads64_",
    "MKL_Set_Num_Threads",
    "omp_set_num_threads",
)
_LIBRARIES = ("openblas", "mkl_rt", "libgomp", "libiomp5", "libomp")


def count() -> int:
    """Threads of this process, the interpreter's and others."""
    return len(os.listdir("/proc/self/task"))


def find_setters() -> List[Callable[[int], Any]]:
    """Of each pool that is loaded, the call that sets its number of threads. Looked up before a fork."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        paths = libraries(file.read())
    found: List[Callable[[int], Any]] = []
    for path in paths:
        try:
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError:
            continue  # mapped as a file, and not loaded as a library
        found += [getattr(library, name) for name in _SETTERS if hasattr(library, name)]
    torch = sys.modules.get("torch")
    if torch is not None:
        found.append(torch.set_num_threads)
    return found


def libraries(maps: str) -> List[str]:
    """The files in /proc/self/maps whose names are those of numeric thread pools (pure)."""
    paths = {fields[5] for fields in (line.split(None, 5) for line in maps.split("\n")) if len(fields) > 5}
    return sorted(path for path in paths if any(name in os.path.basename(path) for name in _LIBRARIES))
