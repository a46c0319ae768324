"""Why a session whose policy says fork started cold, and what to do about it (pure)."""

from __future__ import annotations

_PAGE = "docs/reference/fork-start.md has every reason."
_REMEDIES = (
    ("no session can be forked here", "See the rows `cgroup` and `uid-range` of `bridgehold doctor`."),
    ("no Landlock", "Run Linux 5.19 or later with lsm=landlock,…"),
    ("threads are left by", 'Leave that module out of `[preload]`, or set `start = "cold"` in the policy.'),
    ("a child process is left by", 'Leave that module out of `[preload]`, or set `start = "cold"`.'),
    ("weights", "The message is the file's own: give weights that load without running code."),
    (" failed: ", "The module can't be imported ahead: mend it, or leave it out of `[preload]`."),
    (
        "before it was warm",
        "Most often its memory: `[zygotes] memory`. See `bridgehold audit tail`.",
    ),
    ("memory budget", "Raise `[zygotes] budget`, or have fewer tenants at once."),
    ("the machine is short of", "It passes by itself: the next session tries again."),
    ("can't be held", "Allow ptrace to the launcher: kernel.yama.ptrace_scope below 3."),
)


def remedy(reason: str) -> str:
    """What an operator or author does about a reason, as `start.fell_back` has it."""
    return next((what for sign, what in _REMEDIES if sign in reason), _PAGE)


def describe(reason: str) -> str:
    """One sentence for who reads a terminal."""
    return f"started cold, though its policy says fork: {reason}. {remedy(reason)}"
