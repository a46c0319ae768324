"""What a program can see of its own interpreter, and how that inside a sandbox differs from outside.

`DUMP` is run by the interpreter of this machine as a user runs it, and by each kind of worker. `REASONS`
has a line for every difference that is meant; any other is one of ours that leaks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

DUMP = r"""
def dump():
    import sys
    modules = set(sys.modules)
    import atexit, builtins, gc, linecache, locale, os, resource, signal, stat, threading, warnings
    def annotated(x: "int" = 0, y: int = 0): pass
    main = sys.modules["__main__"]
    def name(handler):
        return getattr(handler, "__qualname__", None) or str(handler)
    def kind(fd):
        try:
            mode = os.fstat(int(fd)).st_mode
        except OSError:
            return None
        return "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else os.readlink("/proc/self/fd/" + fd)
    found = {
        "argv": sys.argv,
        "flags": str(sys.flags),
        "flags as a sequence": len(sys.flags) == sys.flags.n_sequence_fields and sys.flags[0] == sys.flags.debug,
        "-X": sorted(sys._xoptions),
        "-W": sys.warnoptions,
        "main": sorted((k, str(v).partition(" at 0x")[0]) for k, v in vars(main).items() if k.startswith("__") and k != "__builtins__"),
        "main is this": main.__dict__ is globals(),
        "futures": annotated.__annotations__["y"] is int,
        "builtins": sorted(vars(builtins)),
        "exit": repr(exit),
        "help": repr(help),
        "filters": [str(f) for f in warnings.filters],
        "trace": [str(f) for f in (sys.gettrace(), sys.getprofile(), threading._trace_hook, threading._profile_hook)],
        "linecache": sorted(linecache.cache),
        "signals": {s.name: name(signal.getsignal(s)) for s in signal.Signals if "RT" not in s.name},
        "real-time signals": [n for n in range(signal.SIGRTMIN, signal.SIGRTMAX + 1) if signal.getsignal(n) != signal.SIG_DFL],
        "signal mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "wakeup": signal.set_wakeup_fd(-1),
        "hooks": [getattr(sys, n) is getattr(sys, "__" + n + "__") for n in ("excepthook", "displayhook", "breakpointhook", "unraisablehook")],
        "finders": [str(f) for f in sys.meta_path] + [str(f) for f in sys.path_hooks],
        "atexit": atexit._ncallbacks(),
        "threads": sorted(t.name for t in threading.enumerate()),
        "collector": [gc.isenabled(), *gc.get_threshold()],
        "limits": [sys.getrecursionlimit(), sys.getswitchinterval(), sys.getdlopenflags()],
        "bytecode": sys.dont_write_bytecode,
        "umask": oct(os.umask(0o22)),
        "locale": locale.setlocale(locale.LC_ALL),
        "encodings": [sys.getdefaultencoding(), sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()],
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "core files": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "descriptors": {fd: kind(fd) for fd in os.listdir("/proc/self/fd") if kind(fd)},
        "environment": sorted(os.environ),
        "modules": sorted(modules),
    }
    return found
"""


class Difference(msgspec.Struct, frozen=True):
    """`only_inside` and `only_outside`: of collections, what may be on one side alone, by prefix."""

    reason: str
    only_inside: tuple[str, ...] = ()
    only_outside: tuple[str, ...] = ()
    inside: object = None
    """The whole value, where it is one."""
    changed: tuple[tuple[str, str], ...] = ()
    """Of a text: what stands inside for what stands outside."""


REASONS = {
    "-X": Difference(reason="UTF-8 whatever locales the machine has", only_inside=("utf8",)),
    "flags": Difference(
        reason="UTF-8, and no packages but the lock's (PYTHONNOUSERSITE)",
        changed=(("no_user_site=0", "no_user_site=1"), ("utf8_mode=0", "utf8_mode=1")),
    ),
    "builtins": Difference(
        reason="`python:execute` shows, ends and remembers as a notebook does",
        only_inside=("In", "Out", "clear_output", "display", "final", "update_display"),
    ),
    "argv": Difference(reason="a worker has no command line, as a prompt has none", inside=[""]),
    "linecache": Difference(reason="the code of commands, for tracebacks", only_inside=("<execute ",)),
    "main is this": Difference(reason="a module's own names, where a bridge runs code in one", inside=False),
    "real-time signals": Difference(reason="a cancel comes as one", only_inside=("40",)),
    "threads": Difference(reason="reads what the host sends", only_inside=("bridgehold-reader",)),
    "core files": Difference(reason="barrier: no core file, and no core handler of the machine's", inside=1),
    "descriptors": Difference(
        reason="the wire, where no child inherits it",
        only_inside=tuple(f"{number}=pipe" for number in range(16, 40)),
    ),
    "finders": Difference(
        reason="a bridge's sources are compiled once in the zygote; a machine's own site hooks are not inside",
        only_inside=("<function use.<locals>.only", "<function FileFinder"),
        only_outside=("<_distutils_hack", "<function FileFinder"),
    ),
    "environment": Difference(
        reason="barrier: an allow-list; the caches' places, and what libraries read the session's limits from",
        only_inside=(
            *("DSPY_CACHEDIR", "HF_HOME", "LC_ALL", "LITELLM_LOCAL_MODEL_COST_MAP", "NO_PROXY", "PWD"),
            *("LOKY_MAX_CPU_COUNT", "POLARS_MAX_THREADS", "PYTHON_CPU_COUNT", "RAYON_NUM_THREADS"),
            *("LOGNAME", "USER", "JE_ARROW_MALLOC_CONF"),
            *("PYTHONNOUSERSITE", "PYTHONPATH", "TMPDIR", "TZ", "XDG_CACHE_HOME"),
        ),
    ),
    "modules": Difference(
        reason="the SDK and its runner, with the part of the standard library that they need; the bridge's own",
        only_inside=(
            *(
                "bridgehold_sdk",
                "bridgehold_inner",
                "python_bridge",
                "python_displays",
                "python_names",
                "python_place",
                "python_shown",
                "hostile",
            ),
            *(sorted({*sys.stdlib_module_names, "re._", "typing."})),
        ),
        only_outside=("_distutils_hack", "sitecustomize", "apport", "usercustomize", "_virtualenv"),
    ),
}


PRINTED = f"{DUMP}\nimport json\nprint(json.dumps(dump()))"


def outside(*arguments: str) -> dict[str, Any]:
    """The same of this machine's interpreter, as a user without settings of their own starts it."""
    done = subprocess.run(
        ["/usr/bin/env", "--default-signal", sys.executable, *(arguments or ("-c", PRINTED))],
        env={"HOME": "/", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        capture_output=True,
        check=True,
        cwd="/",
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def unexplained(
    here: Mapping[str, Any], there: Mapping[str, Any], reasons: Mapping[str, Difference]
) -> list[str]:
    """Each difference of `there` (inside) from `here` that no reason covers (pure)."""
    found = []
    for key, value in there.items():
        wanted = here[key]
        if value == wanted:
            continue
        known = reasons.get(key)
        if known is None:
            found.append(f"{key}: {value!r}, at home {wanted!r}")
        elif known.changed:
            for old, new in known.changed:
                wanted = wanted.replace(old, new)
            found += [] if value == wanted else [f"{key}: {value!r}, not {wanted!r}"]
        elif known.inside is not None:
            found += [] if value == known.inside else [f"{key}: {value!r}, not {known.inside!r}"]
        else:
            more, less = _members(value) - _members(wanted), _members(wanted) - _members(value)
            found += [f"{key}: {one} only inside" for one in more if not one.startswith(known.only_inside)]
            found += [f"{key}: {one} only outside" for one in less if not one.startswith(known.only_outside)]
    return found


def _members(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {f"{key}={one}" for key, one in value.items()}
    return {str(one) for one in (value if isinstance(value, list) else [value])}
