"""The doctor: all barriers of this machine hold, and a barrier that is taken away is seen."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bridgehold.sandbox import containers, syscalls
from bridgehold.sandbox.cgroups import SessionCgroup
from bridgehold.sandbox.doctor import (
    PROBES,
    Check,
    Context,
    Probe,
    acts,
    as_json,
    compose,
    counts,
    resources,
    run_checks,
    run_one,
    run_probes,
)
from bridgehold.sandbox.doctor.kernel import version_of
from bridgehold.sandbox.doctor.model import passed
from bridgehold.sandbox.doctor.service import judge_unit, mapped_uids, refused_below, unit_name
from bridgehold.sandbox.launch.seccomp import RULES, Rule, compile_filter
from waiting import until

CONTEXT = Context(reserve_bytes=256 << 20)
DOCS = Path(__file__).parents[2] / "docs"
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2


def find(name: str) -> Probe:
    return next(probe for probe in PROBES if probe.name == name)


def probe(run: Callable[[Context], Check], seconds: float = 10.0) -> Probe:
    return Probe(name="mine", proves="nothing", run=run, seconds=seconds)


def with_loss(name: str, lose: Callable[[], None]) -> Check:
    """The row of check `name` on a machine that has lost what `lose` takes away (in a child only)."""
    inner = find(name)

    def run(context: Context) -> Check:
        lose()
        return inner.run(context)

    return run_one(msgspec.structs.replace(inner, run=run), CONTEXT)


def test_every_barrier_of_this_machine_holds_in_the_documented_order() -> None:
    heard: list[str] = []
    rows = run_checks(CONTEXT, on_check=heard.append)
    assert [row.name for row in rows] == heard == [one.name for one in PROBES]
    assert [row for row in rows if row.status == "FAIL"] == []
    assert all(row.detail for row in rows)
    assert all(bool(row.remedy) == (row.status != "PASS") for row in rows)
    shown = json.loads(json.dumps(as_json(rows)))
    assert [set(one) for one in shown] == [{"name", "status", "detail", "remedy"}] * len(PROBES)


def test_a_check_leaves_nothing_behind() -> None:
    before = set(os.listdir("/tmp"))
    for name in ("cgroup", "pids", "cpu", "sandbox"):
        assert run_one(find(name), CONTEXT).status == "PASS"
    found = [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if "bridgehold-doctor" in folder]
    assert found == []
    assert {one for one in set(os.listdir("/tmp")) - before if one.startswith("bridgehold-doctor")} == set()


def test_a_check_that_raises_is_a_failing_row() -> None:
    def broken(_: Context) -> Check:
        raise ZeroDivisionError("by nought")

    row = run_one(probe(broken), CONTEXT)
    assert (row.name, row.status) == ("mine", "FAIL")
    assert "by nought" in row.detail
    assert row.remedy


def test_a_check_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    def hangs(_: Context) -> Check:
        if os.fork() == 0:
            (tmp_path / "pid").write_text(str(os.getpid()))
        while True:
            time.sleep(60)

    row = run_one(probe(hangs, seconds=1.0), CONTEXT)
    assert row.status == "FAIL"
    assert "within 1 s" in row.detail
    grandchild = int((tmp_path / "pid").read_text())

    def gone() -> bool:
        state = acts.read(f"/proc/{grandchild}/stat").rpartition(")")[2].split()
        return not state or state[0] == "Z"

    until(gone)


def test_a_check_that_dies_or_says_too_much_is_a_row() -> None:
    def dies(_: Context) -> Check:
        os.kill(os.getpid(), signal.SIGKILL)
        return passed("mine", "never")

    assert "status -9" in run_one(probe(dies), CONTEXT).detail

    def shouts(_: Context) -> Check:
        os.write(1, b"x" * 100)
        return passed("another name", "y" * 100_000)

    row = run_one(probe(shouts), CONTEXT)
    assert (row.name, row.status, len(row.detail)) == ("mine", "PASS", 2000)


def test_a_check_can_not_reach_the_next_one() -> None:
    def escapes(_: Context) -> Check:
        os.chdir("/")
        os.environ["LEFT_BEHIND"] = "1"
        return passed("mine", str(os.getpid()))

    here = Path.cwd()
    rows = run_probes([probe(escapes)] * 2, CONTEXT)
    assert rows[0].detail != rows[1].detail
    assert Path.cwd() == here
    assert "LEFT_BEHIND" not in os.environ


def test_a_face_adds_checks_and_replaces_ours_by_name() -> None:
    def theirs(_: Context) -> Check:
        return passed("keyring", "theirs")

    extra = [
        Probe(name="keyring", proves="theirs", run=theirs),
        Probe(name="journal", proves="theirs", run=theirs),
    ]
    composed = compose(PROBES, extra)
    assert [one.name for one in composed] == [*(one.name for one in PROBES), "journal"]
    assert run_one(composed[-2], CONTEXT).detail == "theirs"


def test_a_missing_bubblewrap_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bridgehold.sandbox.launch.bwrap.shutil.which", lambda *_, **__: None)
    row = run_one(find("bubblewrap"), CONTEXT)
    assert row.status == "FAIL"
    assert "apt-get install bubblewrap" in row.remedy


def test_user_namespaces_that_are_used_up_are_seen() -> None:
    def lose() -> None:
        own, group = os.getuid(), os.getgid()
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {own} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        Path("/proc/sys/user/max_user_namespaces").write_text("0")

    row = with_loss("user-namespaces", lose)
    assert row.status == "FAIL"
    assert "ENOSPC" in row.detail
    assert "max_user_namespaces" in row.remedy
    assert with_loss("namespace-count", lose).status == "FAIL"


def load_filter(rules: tuple[Rule, ...] = RULES) -> None:
    """What `RestrictNamespaces=` and a `SystemCallFilter=` do to a service: a filter before it starts."""
    program = compile_filter(rules)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    buffer = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    loaded = Program(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0) == 0


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the suite runs: what is lost is a unit's directive, unless a test says otherwise."""
    monkeypatch.setattr(containers, "contained", lambda _: False)


def test_in_a_container_what_is_lost_is_named_by_its_runtimes_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "contained", lambda _: True)
    row = with_loss("systemd", load_filter)
    assert row.status == "FAIL"
    assert row.detail.startswith("a container; no user namespace can be made")
    assert "RestrictNamespaces" not in row.detail
    for runtime in ("Docker, Podman --cap-add=SYS_ADMIN", "Kubernetes securityContext.capabilities.add"):
        assert runtime in row.remedy, row.remedy
    assert row.remedy.count("SYS_ADMIN") == 2, "each option once"


def test_directives_that_break_sandboxes_are_found_by_trying() -> None:
    row = with_loss("systemd", load_filter)
    assert row.status == "FAIL"
    for directive in ("RestrictNamespaces", "RestrictAddressFamilies"):
        assert directive in row.detail
    assert "ProcSubset" not in row.detail
    mounts = tuple(rule for rule in RULES if "mount" in rule.calls)
    row = with_loss("systemd", lambda: load_filter(mounts))
    assert "SystemCallFilter" in row.detail
    assert "RestrictNamespaces" not in row.detail
    assert "Delegate=yes" in row.remedy
    for name in ("user-namespaces", "bubblewrap", "network"):
        assert with_loss(name, load_filter).status == "FAIL"


def test_no_new_privileges_only_hinders_an_ordinary_user() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to be both")

    def lose() -> None:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)

    def lose_as_ordinary() -> None:
        lose()
        acts.become(CONTEXT.uid_first)

    assert with_loss("systemd", lose).status == "PASS"
    assert "NoNewPrivileges" in with_loss("systemd", lose_as_ordinary).detail


def test_a_user_without_cgroups_is_told_how_to_get_them() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become somebody without a sub-tree")

    def lose() -> None:
        acts.become(CONTEXT.uid_first)

    row = with_loss("cgroup", lose)
    assert row.status == "FAIL"
    assert re.search("Delegate=yes|sudo sh -c|--cgroupns=private", row.remedy)
    for name in ("pids", "cpu"):
        assert with_loss(name, lose).remedy == "See the row cgroup."


def test_the_weakening_no_cgroup_is_a_caution_and_never_a_pass() -> None:
    context = msgspec.structs.replace(CONTEXT, cgroup="none")
    for name in ("cgroup", "pids", "cpu"):
        assert run_one(find(name), context).status == "CAUTION"


def test_a_uid_range_that_belongs_to_somebody_is_a_caution() -> None:
    if os.getuid() != 0:
        pytest.skip("an ordinary user's range is the subordinate one")
    row = run_one(find("uid-range"), msgspec.structs.replace(CONTEXT, uid_first=65534))
    assert row.status == "CAUTION"
    assert "uid_base" in row.remedy


def test_kernel_versions_units_and_settings_are_read_as_values() -> None:
    assert version_of("6.1.0-13-amd64") == (6, 1)
    assert version_of("strange") == (0, 0)
    assert unit_name("0::/system.slice/bridgehold.service\n") == "bridgehold.service"
    assert unit_name("0::/system.slice/bridgehold.service/host\n") == "bridgehold.service"
    assert unit_name("0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope\n") == ""
    assert judge_unit({"OOMPolicy": "continue", "Delegate": "yes"}) == []
    assert judge_unit({}) == []
    assert judge_unit({"OOMPolicy": "stop", "Delegate": "no"}) == [
        ("FAIL", "OOMPolicy=stop: a session at its memory cap ends the whole service"),
        ("CAUTION", "Delegate=no: the service may not divide its own cgroup"),
    ]
    assert mapped_uids("0 0 1\n1 200000 65536\n") == 65537
    assert mapped_uids("") == 0
    info = (
        "1 0 0:1 / / rw - ext4 x rw\n2 1 0:1 / /usr rw - ext4 x rw\n3 2 0:1 / /usr/lib/modules ro - tmpfs x rw\n"
        "4 2 0:1 / /usr/share/proc ro - proc x rw\n5 1 0:1 / /usrx/y rw - proc x rw\n"
    )
    assert refused_below(info, "/usr") == ["/usr/share/proc"]


def test_a_mount_below_usr_and_a_narrow_uid_map_are_found() -> None:
    def lose() -> None:
        own, group = os.getuid(), os.getgid()
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{own} {own} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        syscalls.mount("/proc", "/usr/local", None, syscalls.MS_BIND | syscalls.MS_REC)

    row = with_loss("systemd", lose)
    assert row.status == "FAIL"
    assert "below /usr" in row.detail
    assert "PrivateUsers" in row.detail
    assert "RestrictNamespaces" not in row.detail


def test_every_check_is_documented_and_nothing_else() -> None:
    text = (DOCS / "reference" / "doctor.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| .+ \|$", text, re.MULTILINE)
    assert rows == [(one.name, one.proves) for one in PROBES]


def test_counts_that_are_too_small_are_named_with_what_is_needed() -> None:
    numbers = {
        "fs.file-max": (1000,),
        "fs.inotify.max_user_instances": (128,),
        "fs.pipe-user-pages-soft": (4096,),
        "kernel.pty.max": (4096,),
        "net.ipv4.tcp_mem": (10, 20, 30),
        "net.ipv4.udp_mem": (),
    }
    found = counts.short_counts(numbers, v2=True, root=False, memory_bytes=4096 << 12)
    assert found == [
        "fs.file-max=3276800",
        "fs.pipe-user-pages-soft=9600",
        "fs.inotify.max_user_instances=1000",
        "net.ipv4.tcp_mem='2048 3072 4096'",
    ]
    assert counts.short_counts(numbers, v2=False, root=True, memory_bytes=4096 << 12) == found[:1]
    assert counts.short_counts({"fs.pipe-user-pages-soft": (0,)}, v2=False, root=False, memory_bytes=1) == []


def test_kernel_memory_that_no_cgroup_counts_is_found() -> None:
    """The same act with the session's bound on sockets lifted."""
    row = with_loss("kernel-memory", lambda: setattr(counts, "enter_and", _without_bound))
    assert row.status == "FAIL", row.detail


def _without_bound(cgroup: SessionCgroup, act: Callable[[], None]) -> int:
    bound = Path(cgroup.path, "memory.kmem.tcp.limit_in_bytes")
    if bound.exists():
        bound.write_text("-1")
    return resources.enter_and(cgroup, act)
