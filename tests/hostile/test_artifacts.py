"""Artifacts through a whole host: whole, per tenant, within a quota, from outside and from inside."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgehold import BridgeholdError, Client, SyncClient
from hostile.stage import MANIFEST, POLICY, Stage, stage

KINDS = ["root", "user"] if os.getuid() == 0 else ["self"]
TOKEN = "of-acme-only"
FIRST = """
[principals.acme]
tokens = ["sha256:{digest}"]
tenants = ["acme"]
[principals.tester]
uids = [{uid}]
tenants = ["*"]
operator = true
"""
BRIDGE = """
from bridgehold_sdk import Bridge, ToolError, operation

class Hostile(Bridge):
    @operation()
    def act(self, code):
        names = {"artifacts": self.artifacts, "tools": self.tools, "ToolError": ToolError, "result": {}}
        exec(compile(code, "act", "exec"), names)
        return names["result"]
"""


@pytest.fixture(scope="module", params=KINDS)
def keeping(request: pytest.FixtureRequest) -> Iterator[Stage]:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    with stage(
        request.param, "fork", FIRST.format(digest=digest, uid=os.getuid()), host='artifacts = "32MiB"\n'
    ) as ready:
        for tools in ('allow = ["artifact_*"]', "allow = []"):
            name = ready.bridge(manifest=MANIFEST.split("[operations.report]")[0])
            (ready.layout.bridges / name / "hostile.py").write_text(BRIDGE)
            (ready.layout.policies / f"{name}.toml").write_text(
                POLICY + f'[tools]\n{tools}\n[sandbox]\nstart = "fork"\n'
            )
        ready.__dict__["_plain"] = "hostile1"
        yield ready


def act(stage: Stage, code: str, bridge: str = "hostile1", tenant: str = "local") -> Any:
    with stage.session(bridge, tenant=tenant) as session:
        return session.run("act", {"code": code})


def error(act: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(BridgeholdError) as caught:
        act(*args, **more)
    return caught.value.code


@pytest.mark.parametrize("size", [0, 1, 4 << 20, (4 << 20) + 1, 9_000_000])
def test_bytes_come_back_as_they_went_in(keeping: Stage, size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    made = keeping.client.put(data, name="blob.bin")
    assert made.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert (made.size_bytes, made.name) == (size, "blob.bin")
    assert keeping.client.get(made.digest) == data
    keeping.client.get(made.digest, to=tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert keeping.client.put(data, name="another").name == "blob.bin"  # the same bytes, once
    keeping.client.remove(made.digest)
    assert error(keeping.client.get, made.digest) == "not_found"


def test_what_one_session_keeps_another_finds(keeping: Stage) -> None:
    made = act(keeping, "result.update(artifacts.put(b'x' * 700_000, name='weights'))")
    assert act(keeping, f"result['n'] = len(artifacts.get({made['digest']!r}))") == {"n": 700_000}
    assert keeping.client.get(made["digest"]) == b"x" * 700_000
    assert [one.name for one in keeping.client.files()] == ["weights"]
    assert act(keeping, "result['names'] = [one['name'] for one in artifacts.list()]") == {
        "names": ["weights"]
    }
    kept = keeping.events("artifact.changed")[-1]
    assert (kept["action"], kept["digest"], kept["size_bytes"]) == ("kept", made["digest"], 700_000)
    assert keeping.events("artifact.read")[-1]["digest"] == made["digest"]
    keeping.client.remove(made["digest"])


def test_another_tenants_bytes_are_not_found_by_any_way(keeping: Stage) -> None:
    secret = keeping.client.put(b"the plans of local").digest
    try:
        code = (
            "def why(f, *a, **k):\n"
            "    try: f(*a, **k); return 'given'\n"
            "    except ToolError as error: return error.code\n"
            f"result['get'] = why(artifacts.get, {secret!r})\n"
            f"result['up'] = why(artifacts.get, 'sha256:../local/' + {secret[7:]!r})\n"
            f"result['as'] = why(lambda: tools['artifact_get'](digest={secret!r}, tenant='local'))\n"
            f"result['part'] = why(lambda: tools['artifact_put'](data='', upload='../local/{secret[7:31]}'))\n"
            "result['list'] = artifacts.list()\n"
        )
        found = act(keeping, code, tenant="acme")
        assert found == {
            "get": "not_found",
            "up": "not_found",
            "as": "usage",
            "part": "not_found",
            "list": [],
        }
        with SyncClient.connect(keeping.layout.socket, token=TOKEN) as acme:
            assert error(acme.get, secret, tenant="acme") == "not_found"
            assert error(acme.get, secret) == "denied"
            assert error(acme.files) == "denied"
            assert error(acme.remove, secret) == "denied"
            assert error(acme.put, b"x") == "denied"
    finally:
        keeping.client.remove(secret)


def test_nothing_inside_reaches_the_files_themselves(keeping: Stage) -> None:
    found = act(keeping, f"import os\nresult['there'] = os.path.exists({str(keeping.layout.artifacts)!r})")
    assert found == {"there": False}
    assert keeping.layout.artifacts.stat().st_mode & 0o777 == 0o700


def test_without_a_grant_there_are_none(keeping: Stage) -> None:
    code = (
        "try: artifacts.put(b'x')\nexcept ToolError as error: result['code'] = error.code\n"
        "result['tools'] = sorted(tools)"
    )
    assert act(keeping, code, "hostile2") == {"code": "denied", "tools": []}


def test_the_quota_holds_and_names_its_remedy(keeping: Stage) -> None:
    with pytest.raises(BridgeholdError) as caught:  # noqa: PT012 - which put is refused depends on the rest
        for _ in range(8):
            keeping.client.put(os.urandom(5 << 20))
    assert (caught.value.code, "32 MiB" in caught.value.message) == ("budget", True)
    code = (
        "import os\n"
        "try:\n    for _ in range(12): artifacts.put(os.urandom(3 << 20))\n"
        "except ToolError as error: result['code'] = error.code"
    )
    assert act(keeping, code) == {"code": "budget"}
    for one in keeping.client.files():
        keeping.client.remove(one.digest)
    assert keeping.client.put(b"room again").size_bytes == 10


def test_uploads_that_nobody_finishes_are_bounded(keeping: Stage) -> None:
    code = (
        "codes = []\n"
        "for _ in range(80):\n"
        "    try: tools['artifact_put'](data='eA==', last=False)\n"
        "    except ToolError as error: codes.append(error.code)\n"
        "result['codes'] = sorted(set(codes))"
    )
    assert act(keeping, code, tenant="flood") == {"codes": ["budget"]}


def test_parts_that_race_with_the_end_of_their_upload_never_make_a_false_name(keeping: Stage) -> None:
    """What is kept under a digest hashes to it, whatever order the parts and the end come in."""
    part = base64.b64encode(os.urandom(1 << 20)).decode()

    async def race() -> list[Any]:
        async with await Client.connect(keeping.layout.socket) as client:
            begun = await client.request("artifact.put", {"data": part, "last": False})
            upload = {"data": part, "upload": begun["upload"]}
            wanted = [client.request("artifact.put", {**upload, "last": n == 2}) for n in range(6)]
            return await asyncio.gather(*wanted, return_exceptions=True)

    for _ in range(3):
        answers = asyncio.run(race())
        kept = [one for one in answers if isinstance(one, dict) and "digest" in one]
        assert len(kept) == 1
        data = keeping.client.get(kept[0]["digest"])
        assert kept[0]["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert len(data) == kept[0]["size_bytes"]
        keeping.client.remove(kept[0]["digest"])


def test_every_read_is_audited_with_what_was_read(keeping: Stage) -> None:
    digest = keeping.client.put(b"0123456789").digest
    before = len(keeping.events("artifact.read"))
    keeping.client.request("artifact.get", {"digest": digest, "offset": 1, "length": 4})
    keeping.client.request("artifact.get", {"digest": digest, "offset": 9, "length": 400})
    read = keeping.events("artifact.read")[before:]
    assert [(one["offset"], one["length"]) for one in read] == [(1, 4), (9, 1)]
    keeping.client.remove(digest)


def test_a_result_too_large_for_a_frame_comes_as_a_reference(keeping: Stage) -> None:
    code = "result['rows'] = [[n, 'text ' * 20] for n in range(20_000)]"
    found = act(keeping, code)
    assert set(found) == {"$artifact", "size_bytes"}
    data = keeping.client.get(found["$artifact"])
    assert len(data) == found["size_bytes"] > 1 << 20
    import json

    assert len(json.loads(data)["rows"]) == 20_000
    assert error(act, keeping, code, "hostile2") == "limit"


def test_the_command_line_keeps_lists_and_gives_back(keeping: Stage, tmp_path: Path) -> None:
    environment = {**os.environ, "BRIDGEHOLD_HOME": str(keeping.layout.config.parent)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bridgehold", "artifacts", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    (tmp_path / "in.txt").write_text("by hand")
    digest = run("put", str(tmp_path / "in.txt")).stdout.strip()
    assert digest.startswith("sha256:")
    assert "in.txt" in run("list").stdout
    assert run("get", digest, str(tmp_path / "out.txt")).returncode == 0
    assert (tmp_path / "out.txt").read_text() == "by hand"
    again = run("get", digest, str(tmp_path / "out.txt"))
    assert (again.returncode != 0, "File exists" in again.stderr, "Traceback" in again.stderr) == (
        True,
        True,
        False,
    )
    assert run("rm", digest).returncode == 0
    assert "no artifact" in run("get", digest, str(tmp_path / "other.txt")).stderr


def test_a_store_that_the_machine_refuses_the_host_is_no_defect_of_ours(keeping: Stage) -> None:
    """As when its file system turns read-only under it: the caller is told, and no path of the host's."""
    keeping.client.put(b"there before")
    [folder] = keeping.layout.state.glob("artifacts/local")
    mode = folder.stat().st_mode & 0o777
    folder.chmod(0o500)
    try:
        with pytest.raises(BridgeholdError) as outside:
            keeping.client.put(b"refused")
        inside = act(
            keeping,
            "try: artifacts.put(b'x')\nexcept ToolError as e: result['said'] = [e.code, str(e)]",
        )
    finally:
        folder.chmod(mode)
    assert outside.value.code == inside["said"][0] == "config"
    assert outside.value.message == "the host can't use its own files: Permission denied"
    assert "Permission denied" in inside["said"][1]
    assert str(folder) not in f"{outside.value.info()}{inside}"
    assert keeping.client.put(b"refused").size_bytes == 7
