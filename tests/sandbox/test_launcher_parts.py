"""The launcher's smaller parts: uids, the stage's choices, causes of an end, the control socket's answers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from bridgehold.errors import AttestationError, BusyError, HostUnavailableError
from bridgehold.sandbox import procfs
from bridgehold.sandbox.launch.staging import choose_place, inodes
from bridgehold.sandbox.launch.uids import UidPool, UidRange, uid_map
from bridgehold.sandbox.launch.userns import command, subordinate_range
from bridgehold.sandbox.launcher import requests
from bridgehold.sandbox.launcher.channel import Channel, ChannelClosedError
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.launcher.reap import UNKNOWN_STATUS, exit_cause
from bridgehold.sandbox.values import ExitReport, Launched, Usage

RANGE = UidRange(mode="range", first=7000, count=4)


def test_two_hosts_with_one_folder_never_share_a_uid(tmp_path: Path) -> None:
    one, two = UidPool(RANGE, tmp_path), UidPool(RANGE, tmp_path)
    taken = [one.take(), two.take(), one.take(), two.take()]
    assert sorted(taken) == [7000, 7001, 7002, 7003]
    with pytest.raises(BusyError):
        one.take()
    with pytest.raises(BusyError):
        two.take()
    two.give_back(taken[1])
    assert one.take() == taken[1]
    one.close()
    two.close()


def test_a_dead_hosts_uids_are_free(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        pool = UidPool(RANGE, tmp_path)
        for _ in range(4):
            pool.take()
        os.write(writer, b"x")
        signal.pause()
    assert os.read(reader, 1) == b"x"
    pool = UidPool(RANGE, tmp_path)
    with pytest.raises(BusyError):
        pool.take()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert pool.take() in range(7000, 7004)
    pool.close()
    os.close(reader)
    os.close(writer)


@pytest.mark.hostile
def test_the_lock_folder_is_the_one_of_the_start(tmp_path: Path) -> None:
    """Its parent is the host's to rename: a link in its place leads the launcher nowhere."""
    folder, elsewhere = tmp_path / "uids", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    pool = UidPool(RANGE, folder)
    folder.rename(tmp_path / "moved")
    folder.symlink_to(elsewhere)
    pool.take()
    assert list(elsewhere.iterdir()) == []
    pool.close()


@pytest.mark.hostile
def test_a_link_as_lock_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    folder = tmp_path / "uids"
    folder.mkdir()
    for uid in range(7000, 7004):
        (folder / str(uid)).symlink_to(victim)
    pool = UidPool(RANGE, folder)
    with pytest.raises(OSError, match="symbolic links"):
        pool.take()
    assert not victim.exists()
    pool.close()


def test_the_range_that_is_advised_is_nobodys() -> None:
    assert (
        command(["", "nonsense\na:b:c\n"], "bob")
        == "usermod --add-subuids 200000-265535 --add-subgids 200000-265535 bob"
    )
    taken = command(["ann:100000:65536\n", "eve:500000:65536\nann:100000:65536\n"], "bob")
    assert taken == "usermod --add-subuids 565536-631071 --add-subgids 565536-631071 bob"


def test_subordinate_ranges_are_read_by_name_or_number() -> None:
    table = "# c\nbob:100000:65536\n1002:300000:10\nbroken:x:1\n"
    assert subordinate_range(table, "bob", 5) == (100000, 65536)
    assert subordinate_range(table, "carol", 1002) == (300000, 10)
    assert subordinate_range(table, "broken", 9) is None
    assert subordinate_range(table, "bo", 100) is None


def test_the_stage_covers_nothing_that_is_needed() -> None:
    assert choose_place(["/var/lib/x"], ["/mnt", "/srv"]) == "/mnt"
    assert choose_place(["/mnt/data/x"], ["/mnt", "/srv"]) == "/srv"
    assert choose_place(["/mnt"], ["/mnt"]) is None
    assert choose_place(["/mnt2"], ["/mnt"]) == "/mnt"


def test_a_tmpfs_has_one_inode_a_page_and_some_at_least() -> None:
    assert inodes(256 << 20) == 65536
    assert inodes(1) == 1024


@pytest.mark.parametrize(
    ("status", "usage", "by", "cause"),
    [
        (0, Usage(), "", ("exited", 0)),
        (3 << 8, Usage(), "", ("exited", 3)),
        ((128 + 11) << 8, Usage(), "", ("signal", 11)),
        (9, Usage(), "", ("signal", 9)),
        (9, Usage(), "killed", ("killed", 9)),
        (0, Usage(), "killed", ("killed", 9)),
        (9, Usage(), "zygote", ("zygote", 9)),
        (UNKNOWN_STATUS, Usage(), "", ("exited", UNKNOWN_STATUS)),
        (UNKNOWN_STATUS, Usage(), "killed", ("killed", 9)),
        (9, Usage(oom_kills=1), "killed", ("memory", 9)),
        (0, Usage(oom_kills=1), "", ("memory", 9)),
        (UNKNOWN_STATUS, Usage(oom_kills=1), "zygote", ("memory", 9)),
    ],
)
def test_exit_causes(
    status: int, usage: Usage, by: Literal["", "killed", "zygote"], cause: tuple[str, int]
) -> None:
    assert exit_cause(status, usage, by=by) == cause


def test_a_zygotes_map_holds_every_session_and_one_uid_as_root() -> None:
    uids = UidRange(mode="range", first=1000, count=10)
    assert uid_map(uids, 1004) == "0 1004 1\n1000 1000 4\n1005 1005 5\n"
    assert uid_map(uids, 1000) == "0 1000 1\n1001 1001 9\n"
    assert uid_map(uids, 1009) == "0 1009 1\n1000 1000 9\n"


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def test_the_channel_queues_what_the_host_does_not_read_and_keeps_its_order() -> None:
    ours, theirs = pair()
    channel = Channel(ours)
    usage = Usage(cpu_us=1)
    number = 0
    while not channel.full:
        number += 1
        channel.send(requests.Answer(id=number, usage=usage))
    assert channel.unsent
    seen = []
    while channel.unsent:
        seen.append(msgspec.json.decode(theirs.recv(4096), type=requests.Answer).id)
        channel.flush()
    theirs.setblocking(False)
    while len(seen) < number:
        seen.append(msgspec.json.decode(theirs.recv(4096), type=requests.Answer).id)
    assert seen == list(range(1, number + 1))
    channel.close()


def test_an_answer_that_is_no_text_is_said_all_the_same() -> None:
    ours, theirs = pair()
    channel = Channel(ours)
    channel.send(requests.Answer(id=1, error=AttestationError("it holds /tmp/\udcff").info()))
    answer = msgspec.json.decode(theirs.recv(4096), type=requests.Answer)
    assert answer.id == 1
    assert answer.error is not None
    assert answer.error.message == "it holds /tmp/?"
    channel.close()


def test_the_channel_closes_descriptors_that_were_not_sent() -> None:
    ours, theirs = pair()
    channel = Channel(ours)
    theirs.close()
    descriptor = os.memfd_create("x")
    with pytest.raises(ChannelClosedError):
        channel.send(requests.Answer(id=1), [descriptor])
    channel.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("data", [b"{", b'{"type":"reboot","id":1}', b'{"type":"kill","id":"x"}', b"\xff"])
def test_the_channel_ends_at_what_is_no_request(data: bytes) -> None:
    ours, theirs = pair()
    theirs.send(data)
    with pytest.raises(ChannelClosedError):
        Channel(ours).receive()


def report(worker: str) -> ExitReport:
    return ExitReport(worker=worker, cause="exited", status=0, usage=Usage(), emptied_ms=0, uid=1)


def test_the_client_keeps_a_bounded_number_of_ends() -> None:
    async def main() -> None:
        ours, theirs = pair()
        client = await LauncherClient.connect(ours)
        waiting = asyncio.create_task(client.exited("w-0"))
        await asyncio.sleep(0)
        for number in range(1500):
            answer = requests.Answer(id=0, exited=report(f"w-{number}"))
            await asyncio.get_running_loop().sock_sendall(theirs, msgspec.json.encode(answer))
            await asyncio.sleep(0)
        assert (await waiting).worker == "w-0"
        assert (await client.exited("w-1499")).worker == "w-1499"
        assert len(client._exits) <= 1024
        client.close()
        theirs.close()

    asyncio.run(main())


def test_an_answer_for_a_caller_that_left_is_closed_and_its_worker_killed() -> None:
    async def main() -> None:
        ours, theirs = pair()
        theirs.setblocking(False)
        client = await LauncherClient.connect(ours)
        loop = asyncio.get_running_loop()
        asking = asyncio.create_task(client._ask(requests.MachineRequest(7)))
        await loop.sock_recv(theirs, 4096)
        asking.cancel()
        await asyncio.sleep(0)
        launched = Launched(worker="w-x", pid=1, uid=1, spec_digest="", phases_us={}, descriptors=1)
        held = os.memfd_create("x")
        before = len(os.listdir("/proc/self/fd"))
        data = msgspec.json.encode(requests.Answer(id=7, launched=launched))
        socket.send_fds(theirs, [data], [held])
        asked = msgspec.json.decode(await loop.sock_recv(theirs, 4096), type=requests.Request)
        assert asked == requests.KillRequest(asked.id, "w-x")
        assert len(os.listdir("/proc/self/fd")) == before
        os.close(held)
        client.close()
        theirs.close()

    asyncio.run(main())


def test_many_callers_at_once_are_all_answered_though_the_socket_is_full() -> None:
    async def main() -> None:
        ours, theirs = pair()
        theirs.setblocking(False)
        client = await LauncherClient.connect(ours)
        loop = asyncio.get_running_loop()
        calls = [asyncio.create_task(client.usage("w")) for _ in range(2000)]
        for _ in range(5):  # each has asked, as far as the socket takes it
            await asyncio.sleep(0)
        for _ in calls:
            asked = msgspec.json.decode(await loop.sock_recv(theirs, 4096), type=requests.Request)
            answer = requests.Answer(id=asked.id, usage=Usage(cpu_us=asked.id))
            await loop.sock_sendall(theirs, msgspec.json.encode(answer))
        answers = await asyncio.wait_for(asyncio.gather(*calls), 30)
        assert len({answer.cpu_us for answer in answers}) == 2000
        client.close()
        theirs.close()

    asyncio.run(main())


def test_a_launcher_that_talks_nonsense_is_lost() -> None:
    async def main() -> None:
        ours, theirs = pair()
        client = await LauncherClient.connect(ours)
        asking = asyncio.create_task(client.machine())
        await asyncio.sleep(0)
        theirs.send(b"nonsense")
        with pytest.raises(HostUnavailableError):
            await asking
        theirs.close()

    asyncio.run(main())


REUSED = """
import os, signal
from bridgehold.sandbox import procfs
first = os.fork()
if first == 0:
    os._exit(0)
began = procfs.start_time(first)
os.waitpid(first, 0)
def reused():
    open("/proc/sys/kernel/ns_last_pid", "w").write(str(first - 1))
    number = os.fork()
    if number == 0:
        while True:
            signal.pause()
    assert number == first, (first, number)
    return number
again = reused()
while procfs.start_time(again) == began:  # by the clock's ticks
    os.kill(again, 9)
    os.waitpid(again, 0)
    again = reused()
os.close(procfs.open_process(again, lambda: True))
kept = len(os.listdir("/proc/self/fd"))
try:
    procfs.open_process(first, lambda: procfs.start_time(first) == began)
except ProcessLookupError:
    print("refused")
assert len(os.listdir("/proc/self/fd")) == kept
os.kill(again, 9)
os.waitpid(again, 0)
"""


def test_a_number_that_is_anothers_by_now_is_not_taken_for_the_process_that_had_it() -> None:
    argv = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    done = subprocess.run(
        [*argv, sys.executable, "-c", REUSED],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_no_process_is_opened_by_its_number_without_a_second_look() -> None:
    """But children of one's own, whose number stays theirs until they are reaped, and what looks for itself."""
    sandbox = Path(str(procfs.__file__)).parent
    opens = {
        str(path.relative_to(sandbox))
        for path in sandbox.rglob("*.py")
        if "os.pidfd_open(" in path.read_text()
    }
    own = {"aside.py", "fork/shell.py", "launch/cold.py"}
    assert opens == {*own, "procfs.py", "syscalls.py", "cgroups/files.py", "doctor/kernel.py"}
