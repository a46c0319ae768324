"""ABUSE.md's acts inside real sandboxes: as root and as an ordinary user, in a command and at import."""

from __future__ import annotations

import pytest

from hostile.acts import ACTS, Act
from hostile.fatal import BAD_FRAMES, FATAL, Fatal
from hostile.stage import Stage


@pytest.mark.hostile
@pytest.mark.parametrize("where", ["command", "import"])
@pytest.mark.parametrize("act", ACTS, ids=lambda act: f"{act.row}-{act.name}")
def test_the_barrier_holds(host: Stage, act: Act, where: str) -> None:
    result = host.act(act.code, where=where)
    assert act.expect(result), result


@pytest.mark.hostile
@pytest.mark.parametrize("where", ["command", "import"])
@pytest.mark.parametrize("fatal", FATAL, ids=lambda fatal: f"{fatal.row}-{fatal.name}")
def test_the_session_dies_alone_and_typed(host: Stage, fatal: Fatal, where: str) -> None:
    with host.session() as sibling:
        sibling.run("common:ping")
        ends = "timeout" in fatal.codes  # by the host's clock alone, however long that is
        soon = {"startup": "2s"} if ends else {}
        error = host.fails(fatal.code, where=where, deadline_ms=1_000 if ends else 0, **soon)
        assert error.code in fatal.codes, (error.code, error.message)
        assert sibling.run("act", {"code": "result = {'alive': sum(range(10))}"}) == {"alive": 45}


@pytest.mark.hostile
@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_broken_frame_ends_the_session_as_protocol(host: Stage, name: str) -> None:
    body = BAD_FRAMES[name]
    code = (
        f"import os, struct\nbody = {body!r}\n"
        if len(body) < 10_000
        else "import os, struct\nbody = b'{\"id\":1,\"success\":true,\"result\":' + b'[' * 100000 + b']' * 100000 + b'}'\n"
    ) + (
        "data = struct.pack('>I', len(body)) + body\n"
        "import stat, fcntl, time\n"
        "for fd in range(3, 1024):\n"
        "    try:\n"
        "        if stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & 3 == os.O_WRONLY:\n"
        "            view = memoryview(data)\n"
        "            while view: view = view[os.write(fd, view):]\n"
        "    except OSError: pass\n"
        "time.sleep(20)\n"
    )
    error = host.fails(code)
    assert error.code == "protocol", (error.code, error.message)


@pytest.mark.hostile
def test_nothing_is_left_after_a_session_of_daemons(host: Stage) -> None:
    code = """
import os, time
for _ in range(10):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
for _ in range(10):
    if os.fork() == 0:
        os._exit(0)
result = {"done": True}
"""
    before = set(host.sandboxes())
    assert host.act(code) == {"done": True}
    assert set(host.sandboxes()) <= before
    assert all(not session.commands or session.state != "ending" for session in host.client.sessions())
