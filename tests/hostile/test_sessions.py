"""Rows about sessions, replies, floods and names: several sandboxes at once, and the host afterwards."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time

import pytest

from bridgehold import BridgeholdError, SyncClient
from hostile.stage import Stage
from waiting import until

pytestmark = pytest.mark.hostile


def test_1_a_sibling_still_forks_during_a_fork_bomb(host: Stage) -> None:
    bomb = """
import os, time
end, full = time.monotonic() + 3, False
while time.monotonic() < end:
    try:
        if os.fork() == 0:
            time.sleep(60)
    except OSError:
        full = full or not print("full", flush=True)
        time.sleep(0.01)
result = {"done": full}
"""
    with host.session() as one, host.session() as two, concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(one.run, "act", {"code": bomb})
        until(lambda: "full" in one.logs())  # no process more is to be had there
        fork = (
            "import os\npid = os.fork()\nif pid == 0: os._exit(3)\nresult = {'status': os.waitpid(pid, 0)[1]}"
        )
        assert two.run("act", {"code": fork}) == {"status": 3 << 8}
        assert running.result() == {"done": True}


def test_12_a_flood_of_output_is_cut_and_marked_and_framing_goes_on(host: Stage) -> None:
    code = "import sys\nfor i in range(20000): print('x' * 200)\nresult = {'done': True}"
    with host.session() as session:
        assert session.run("act", {"code": code}) == {"done": True}
        until(lambda: "bytes cut" in session.logs())
        log = session.logs()
        assert len(log) < 400_000
        assert session.run("act", {"code": "result = {'next': 1}"}) == {"next": 1}


def test_14_half_a_frame_and_then_nothing_ends_the_session(host: Stage) -> None:
    code = """
import fcntl, os, stat, struct, time
for fd in range(3, 1024):
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & 3 == os.O_WRONLY:
            os.write(fd, struct.pack(">I", 500_000) + b"{" * 1000)
    except OSError:
        pass
time.sleep(60)
"""
    name = host.bridge()
    with host.session(name) as session, pytest.raises(BridgeholdError) as caught:
        session.run("act", {"code": code})
    assert caught.value.code == "protocol", (caught.value.code, caught.value.message)


def test_15_replies_for_other_ids_and_twice_reach_nobody(host: Stage) -> None:
    code = """
import fcntl, json, os, stat, struct
def send(body):
    data = json.dumps(body).encode()
    data = struct.pack(">I", len(data)) + data
    for fd in range(3, 1024):
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & 3 == os.O_WRONLY and fd > 2:
                os.write(fd, data)
        except OSError:
            pass
for other in (0, 1, 77, 2**40):
    send({"id": other, "success": True, "result": "forged", "timestamp": ""})
result = {"mine": True}
"""
    with host.session() as session:
        seen = []
        for _ in range(3):
            try:
                seen.append(session.run("act", {"code": code}))
            except BridgeholdError as error:
                assert error.code in ("protocol", "session_ended")
                break
        assert all(value == {"mine": True} for value in seen)
        identity = session.id
    kinds = [event for event in host.events("protocol.violation") if event["session"] == identity]
    assert kinds, "the strays were not audited"


def test_19_logs_and_exceptions_hold_no_placeholder_worth_anything(host: Stage) -> None:
    error = host.fails("raise ValueError('boom')")
    assert error.code in ("application", "usage")
    assert "boom" in error.message


def test_33_not_granted_unknown_and_foreign_look_alike(host: Stage) -> None:
    with host.session() as session, host.session(tenant="other") as foreign:
        answers = []
        for operation, target in (
            (f"{host.plain}:nothing", session.id),
            ("nobody:act", session.id),
            (f"{host.plain}:report", foreign.id),
            (f"{host.plain}:report", "s-0000000000000000"),
        ):
            with pytest.raises(BridgeholdError) as caught:
                host.client.call(operation, {}, session=target)
            answers.append(caught.value)
        assert {answer.code for answer in answers[:2]} == {"denied"}
        foreign_answer, guessed = answers[2:]
        assert foreign_answer.code == guessed.code == "not_found"
        assert foreign_answer.message.replace(foreign.id, "X") == guessed.message.replace(
            "s-0000000000000000", "X"
        )


def test_39_everything_in_flight_gets_a_typed_error_when_a_session_ends(host: Stage) -> None:
    with host.session() as session, concurrent.futures.ThreadPoolExecutor(6) as pool:
        session.run("report")
        slow = [pool.submit(session.run, "act", {"code": "import time; time.sleep(60)"}) for _ in range(4)]
        until(lambda: host.busy(session.id))
        host.client.request("session.close", {"session": session.id})
        codes = set()
        for call in slow:
            with pytest.raises(BridgeholdError) as caught:
                call.result(timeout=30)
            codes.add(caught.value.code)
        assert codes <= {"session_ended", "cancelled"}


def test_40_large_arguments_and_odd_names_stay_one_bounded_line(host: Stage) -> None:
    with host.session() as session:
        with pytest.raises(BridgeholdError) as caught:
            session.run("act", {"code": "x" * (10 << 20)})
        assert caught.value.code in ("limit", "usage")
        assert session.run("act", {"code": "result = {}\n# \u2028 \x7f \u202e"}) == {}
    for odd in ("a\nb", "\ud800", "\x00", "x" * 5000):
        with pytest.raises((BridgeholdError, UnicodeEncodeError)) as refused:
            host.client.call(f"{host.plain}:{odd}", {})
        if isinstance(refused.value, BridgeholdError):
            assert refused.value.code in ("usage", "denied")
    from bridgehold.audit.verify import verify_audit

    assert verify_audit(host.layout.audit).integrity.ok


def test_43_a_flood_of_tiny_frames_does_not_starve_another_session(host: Stage) -> None:
    flood = """
import fcntl, json, os, stat, struct, time
frame = json.dumps({"type": "progress", "id": 99999, "done": 1, "total": 2, "note": ""}).encode()
frame = struct.pack(">I", len(frame)) + frame
fds = []
for fd in range(3, 1024):
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & 3 == os.O_WRONLY:
            fds.append(fd)
    except OSError:
        pass
end = time.monotonic() + 3
while time.monotonic() < end:
    for fd in fds:
        os.write(fd, frame * 20)
result = {"done": True}
"""
    with host.session() as one, host.session() as two, concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(_quietly, one, flood)
        until(lambda: host.busy(one.id) or running.done())
        for _ in range(20):
            assert two.run("act", {"code": "result = {'ok': 1}"}) == {"ok": 1}
        running.result(timeout=60)
    audited = [event for event in host.events("protocol.violation") if event["session"] == one.id]
    assert len(audited) < 200, "the flood's violations were not folded"


def _quietly(session: object, code: str) -> None:
    try:
        session.run("act", {"code": code})  # type: ignore[attr-defined]
    except BridgeholdError as error:
        assert error.code in ("protocol", "timeout", "session_ended")


def test_46_two_hundred_processes_under_a_small_quota_are_gone_at_the_deadline(host: Stage) -> None:
    manifest_policy = host.layout.policies / "slowdeath.toml"
    name = host.bridge()
    text = (host.layout.policies / f"{name}.toml").read_text()
    (host.layout.policies / f"{name}.toml").write_text(
        text.replace("cpu = 1.0", "cpu = 0.1").replace("processes = 64", "processes = 256")
    )
    code = """
import os, time
for _ in range(200):
    if os.fork() == 0:
        while True: pass
while True:
    try: time.sleep(60)
    except BaseException: pass
"""
    with host.session(name) as session:
        session.run("report")
        with pytest.raises(BridgeholdError) as caught:
            session.call("act", {"code": code}, deadline_ms=3000)
        assert caught.value.code == "timeout"
        ends = [event for event in host.events("session.closed") if event["session"] == session.id]
    assert ends
    assert int(str(ends[-1]["emptied_ms"])) < 5_000
    assert not manifest_policy.exists()


def test_48_a_local_user_without_a_mapping_is_refused_and_audited(host: Stage) -> None:
    import os
    import subprocess
    import sys

    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    before = len(host.events("principal.refused"))
    code = (
        "import socket, struct, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        'b = b\'{"id":1,"method":"sessions","params":{}}\'\n'
        "s.sendall(struct.pack('>I', len(b)) + b); n = struct.unpack('>I', s.recv(4))[0]; print(s.recv(n).decode())\n"
    )
    done = subprocess.run(
        [
            "setpriv",
            "--reuid=65533",
            "--clear-groups",
            sys.executable,
            "-I",
            "-c",
            code,
            str(host.layout.socket),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert '"denied"' in done.stdout
    assert len(host.events("principal.refused")) == before + 1


def test_two_clients_see_one_named_session(host: Stage) -> None:
    with SyncClient.connect(host.layout.socket) as one, SyncClient.connect(host.layout.socket) as two:
        name = host.plain
        one.run(
            f"{name}:act", {"code": "import builtins; builtins.shared = 41; result = {}"}, session="shared"
        )
        value = two.run(f"{name}:act", {"code": "result = {'seen': shared + 1}"}, session="shared")
        assert value == {"seen": 42}
        one.request("session.close", {"session": "shared"})


def test_a_name_that_several_have_ends_and_shows_none_of_them(host: Stage) -> None:
    """Two bridges of one tenant: the error says which ids there are."""
    second = host.bridge()
    with (
        host.client.session(host.plain, tenant="acme", name="twin") as one,
        host.client.session(second, tenant="acme", name="twin") as other,
        host.client.session(host.plain, tenant="globex", name=one.id) as posing,
    ):
        for method in ("session.kill", "session.close", "logs", "session.profile", "session.find"):
            with pytest.raises(BridgeholdError) as caught:
                host.client.request(method, {"session": "twin"})
            assert (caught.value.code, caught.value.message) == ("usage", "2 sessions are named 'twin'"), (
                method
            )
            assert f"{one.id} (acme, {host.plain})" in caught.value.hint
            assert f"{other.id} (acme, {second})" in caught.value.hint
        host.client.request("session.kill", {"session": one.id})  # an id is no name, whoever bears it as one
        assert other.run("act", {"code": "result = {'x': 1}"}) == {"x": 1}
        assert posing.run("act", {"code": "result = {'x': 2}"}) == {"x": 2}
        assert host.client.request("session.find", {"session": "twin"})["id"] == other.id


def test_a_cancelled_command_leaves_its_session_alive_if_the_bridge_stops(host: Stage) -> None:
    name = host.bridge(grace="20s")  # a busy machine's guest stops in time, too
    with host.session(name) as session:
        session.run("report")
        with SyncClient.connect(host.layout.socket) as short:
            thread = threading.Thread(target=lambda: _swallow(short, f"{name}:act", session.id), daemon=True)
            thread.start()
            until(lambda: host.busy(session.id))
        # the connection is closed: its command is cancelled, the session goes on
        assert session.run("act", {"code": "result = {'alive': 1}"}) == {"alive": 1}


def _swallow(client: SyncClient, operation: str, session: str) -> None:
    try:
        client.call(operation, {"code": "import time; time.sleep(30)"}, session=session)
    except BaseException:
        return


def test_who_ends_sessions_to_open_others_never_has_more_of_them_than_it_may(host: Stage) -> None:
    """One that is ending still has its memory; and whoever asks for it meanwhile is told that it has ended."""
    name = host.bridge()
    policy = host.layout.policies / f"{name}.toml"
    policy.write_text(policy.read_text().replace("concurrency = 32", "concurrency = 1"))
    heavy = "import os\nkept = bytearray(b'x' * (64 << 20))\nos._exit(3)"
    refusals = len(host.events("request.refused"))
    crashed: list[str] = []
    latest = time.monotonic() + 60

    def churn(number: int) -> None:
        """Two callers to each name: who opens it again buries what the other has just ended."""
        with SyncClient.connect(host.layout.socket) as client:
            while len(crashed) < 4 and time.monotonic() < latest:
                with contextlib.suppress(BridgeholdError):
                    found = client.request("session.open", {"bridge": name, "name": f"n{number % 2}"})
                    with pytest.raises(BridgeholdError):
                        client.run(f"{name}:act", {"code": heavy}, session=found["id"])
                    crashed.append(found["id"])
                    with pytest.raises(BridgeholdError) as caught:
                        client.request("session.find", {"session": found["id"]})
                    assert caught.value.code == "session_ended"

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in [pool.submit(churn, number) for number in range(4)]:
            done.result()
    assert len(host.events("request.refused")) == refusals, "a session's end was written as a probe"
    living: set[object] = set()
    most = 0
    for event in host.events("session."):
        if event["kind"] == "session.opened" and event["bridge"] == name:
            living.add(event["session"])
        elif event["kind"] == "session.closed":
            living.discard(event["session"])
        most = max(most, len(living))
    assert len(set(crashed)) > 1
    assert most == 1, f"{most} at once"


def test_keys_that_can_t_be_taken_out_of_a_text_are_in_no_line_of_the_audit(host: Stage) -> None:
    """In code that runs, and in arguments that are refused: `run` and its refusal show what came, without them."""
    key = f"q7{host.kind}Zr0123456789abcdEF"
    code = (
        f"url = 'https://user:{key}@db.example/?openai_key={key}'\nrun = 'x --password {key}'\n"
        f"text = '{{\"api_key\": \"{key}\"}}'\nresult = {{'seen': [one.count('{key[:2]}') for one in (url, run, text)]}}"
    )
    argv = ["serve", f"--groq-key={key}", f"DB_PASSWORD={key}"]
    with host.session() as session:
        assert session.run("act", {"code": code}) == {"seen": [2, 1, 1]}
        intent = host.events("command.intent")[-1]
        assert "https://user:[redacted]@db.example" in str(intent["arguments_preview"])
        with pytest.raises(BridgeholdError):
            session.run("act", {"code": "1", "argv": argv, "pairs": [{"k": "api_key", "v": key}]})
        refused = host.events("command.refused")[-1]
        assert "serve" in str(refused["arguments_preview"])
    written = b"".join(path.read_bytes() for path in host.layout.audit.rglob("*") if path.is_file())
    assert key.encode() not in written
