"""ABUSE 12, 14, 15, 43 and 46 at import: before there is a session to speak of, and a sibling beside it."""

from __future__ import annotations

import pytest

from bridgehold import BridgeholdError
from hostile.stage import Stage

pytestmark = pytest.mark.hostile

WRITE = """
import fcntl, json, os, stat, struct, time
def frames(data, seconds=0):
    end = time.monotonic() + seconds
    fds = []
    for fd in range(3, 1024):
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & 3 == os.O_WRONLY:
                fds.append(fd)
        except OSError:
            pass
    while True:
        for fd in fds:
            os.write(fd, data)
        if time.monotonic() >= end:
            return
def pack(value):
    body = json.dumps(value).encode()
    return struct.pack(">I", len(body)) + body
"""

ACTS = {
    "12-flood of output": ("for i in range(20000): print('x' * 200)\nresult['done'] = 1\n", ()),
    "14-half a frame": (
        WRITE + "frames(struct.pack('>I', 500000) + b'{')\ntime.sleep(60)\n",
        ("protocol", "timeout"),
    ),
    "14-not JSON": (WRITE + "frames(struct.pack('>I', 5) + b'hello')\ntime.sleep(60)\n", ("protocol",)),
    "15-replies before any call": (
        WRITE
        + "frames(pack({'id': 1, 'success': True, 'result': 'forged', 'timestamp': ''}))\nresult['done'] = 1\n",
        ("protocol", "manifest"),
    ),
    "15-ready in another's name": (
        WRITE
        + "frames(pack({'type': 'ready', 'bridge': 'dspy', 'version': '1', 'operations': []}))\ntime.sleep(60)\n",
        ("manifest", "protocol"),
    ),
    "43-tiny frames": (
        WRITE
        + "frames(pack({'type': 'progress', 'id': 9, 'done': 1, 'total': 2, 'note': ''}) * 20, 2)\nresult['done'] = 1\n",
        ("protocol", "timeout"),
    ),
    "46-two hundred processes": (
        (
            "import os, time\nfor _ in range(200):\n    try:\n        if os.fork() == 0:\n            while True: pass\n"
            "    except OSError: break\ntime.sleep(60)\n"
        ),
        ("timeout",),
    ),
}


@pytest.mark.parametrize("name", ACTS)
def test_at_import_it_ends_typed_or_not_at_all_and_a_sibling_works(host: Stage, name: str) -> None:
    code, codes = ACTS[name]
    bridge = host.bridge(code, **({"startup": "2s"} if "timeout" in codes else {}))
    with host.session() as sibling:
        sibling.run("common:ping")
        try:
            with host.session(bridge) as session:
                assert session.run("report") == {"done": 1}
        except BridgeholdError as error:
            assert error.code in codes, (error.code, error.message)
        else:
            assert "done" in code, "it should have ended"
        assert sibling.run("act", {"code": "result = {'alive': 1}"}) == {"alive": 1}
    assert not [s for s in host.client.sessions() if s.bridge == bridge]
