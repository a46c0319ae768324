"""What keeps each attested fact true after the proof, which is read once (pure).

A fact that `observe` reads and this table doesn't have fails a test, and so does an act that no test does.
"""

from __future__ import annotations

from typing import NamedTuple


class Kept(NamedTuple):
    """One fact, or some that the same thing keeps."""

    what: str
    facts: tuple[str, ...]
    """Fields of `Observed`, `MountSeen` and `Identity`."""
    keeper: str
    acts: tuple[str, ...]
    """Tests that try to make it untrue: ``file::name``, and of a test with many acts ``file::name[act]``."""


_ACT = "tests/hostile/test_acts.py::test_the_barrier_holds"
_FORKS = "tests/sandbox/test_fork_hostile.py"
_MOUNTS = "tests/sandbox/test_mounts.py"
_CHANGED = "tests/sandbox/test_kept.py::test_nothing_that_was_proved_is_changed_from_inside"

KEPT = (
    Kept(
        "kernel uid, gid, no groups",
        ("uids", "gids", "groups"),
        "No capability to change them; set-user-id files don't work (`nosuid`, no-new-privs).",
        (_CHANGED, f"{_ACT}[20-terminal injection and setuid programs]"),
    ),
    Kept(
        "no capability in any set",
        ("capabilities",),
        "A set that is empty can't be filled: no-new-privs, an empty bounding set, no user namespace "
        "of its own (`--disable-userns`, or `max_user_namespaces = 0`).",
        (_CHANGED, f"{_ACT}[20-namespaces, mounts, keys, bpf, perf, userfaultfd, io_uring]"),
    ),
    Kept(
        "no-new-privs, the seccomp filter",
        ("no_new_privs", "seccomp_mode"),
        "Neither can be taken back; every child inherits both. bubblewrap loads the filter before the "
        "first instruction inside, and it refuses every further one: so a fork of a zygote that was "
        "taken over has it too.",
        (
            _CHANGED,
            f"{_FORKS}::test_a_zygote_that_was_taken_over_has_no_filter_but_the_first_and_joins_nothing_by_itself",
        ),
    ),
    Kept(
        "namespaces",
        ("namespaces",),
        "`unshare` and clone's flags are refused by the filter, and so is `setns` to all that the "
        "launcher doesn't trace; nothing inside is a handle of another one.",
        (
            _CHANGED,
            f"{_FORKS}::test_a_zygote_that_was_taken_over_has_no_filter_but_the_first_and_joins_nothing_by_itself",
        ),
    ),
    Kept(
        "cgroup",
        ("in_cgroup",),
        "No control file is inside; only root, or who owns the sub-tree, moves a process or changes a limit.",
        (
            "tests/sandbox/test_cgroups.py::test_a_daemon_that_left_its_session_and_parent_is_still_held_and_killed",
            "tests/sandbox/test_attest.py::test_a_foreign_process_in_the_cgroup_turns_it_red_and_ends_it",
        ),
    ),
    Kept(
        "limits",
        ("rlimits",),
        "A hard limit is raised by a capability in the first user namespace only.",
        (_CHANGED, "tests/sandbox/test_limits.py"),
    ),
    Kept(
        "mounts: what shows where, read-only, `nosuid`, `nodev`, sealed",
        ("mounts", "options", "kind", "follows", "sealed"),
        "The mount calls are refused inside; outside, each is a private copy of its own, made whole "
        "before the sandbox has it, so that nothing the machine mounts or unmounts later reaches it "
        "(the proof refuses a mount that follows another). A volume that is mounted later shows in "
        "sandboxes that start later, read-only; what is unmounted stays in use until the last sandbox "
        "that has it ends. Only under the weakening `shared_uid` do bubblewrap's mounts go on "
        "following the machine's. Sizes of `/tmp`, `/scratch` and `/dev/shm` stay for the same "
        "reason.",
        (
            _CHANGED,
            f"{_MOUNTS}::test_a_mount_of_the_machines_shows_in_no_running_sandbox_and_costs_none",
            f"{_MOUNTS}::test_a_fifo_or_socket_of_a_read_grant_is_not_written_to",
        ),
    ),
    Kept(
        "which file or folder a mount shows",
        ("identity", "device", "root", "number"),
        "A bind holds the inode, whatever its name becomes; what lies below a bound folder is part of "
        "the proof, and a file system that holds no files (a `/proc`, a `/sys`) below a granted "
        "folder is refused. A forked worker's mounts are its zygote's, which were proved with it, and "
        "its own, as the launcher saw them before the fork was there.",
        (
            f"{_MOUNTS}::test_what_its_owner_replaces_ends_nothing_that_stands",
            f"{_MOUNTS}::test_what_is_not_what_was_staged_is_no_renamed_one",
            f"{_MOUNTS}::test_what_holds_no_files_is_not_bound_with_a_grant",
        ),
    ),
    Kept(
        "which process it is, and whose child",
        ("pid", "start_time", "parent"),
        "Pidfds and start times; numbers are never signalled. An orphan is its namespace's init's, "
        "which ends with it.",
        (
            (
                "tests/sandbox/test_launcher_parts.py"
                "::test_a_number_that_is_anothers_by_now_is_not_taken_for_the_process_that_had_it"
            ),
            f"{_FORKS}::test_an_impostor_is_never_green",
        ),
    ),
    Kept(
        "of a zygote: one process, one thread",
        ("threads",),
        "It is stopped but for the moment of a fork, and looked at anew before each; one that is not "
        "what it was ends, with its sessions.",
        (
            f"{_FORKS}::test_a_surprise_ends_the_zygote_and_its_sessions[starts a thread]",
            f"{_FORKS}::test_a_zygote_that_is_held_does_not_wake_itself",
        ),
    ),
)


def reference() -> str:
    """The page's text."""
    rows = "".join(
        f"| {one.what} | {one.keeper} | {', '.join(f'`{act}`' for act in one.acts)} |\n" for one in KEPT
    )
    return (
        "# What was proved stays true\n\n"
        "The launcher proves each worker and zygote from outside before anything of a tenant's goes in "
        "([`observe`](../../src/bridgehold/sandbox/attest/observe.py)). A proof is read once; what keeps "
        "each fact of it afterwards is the kernel, and a test that tries to make it untrue.\n\n"
        f"| fact | what keeps it | acts |\n| --- | --- | --- |\n{rows}"
    )
