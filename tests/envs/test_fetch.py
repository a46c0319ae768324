from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import http.server
import os
import shutil
import socket
import threading

import psutil
import pytest
from envs_kit import make_index, make_lock, make_sdist, make_wheel, sha256

from bridgehold.errors import DependencyError, EnvironmentBuildError
from bridgehold.sandbox.envs.fetcher import clean_environment, fetch
from bridgehold.sandbox.envs.lock import parse_lock
from bridgehold.sandbox.envs.values import FetchLimits, FetchRequest, Sources


@pytest.fixture
def get(tmp_path, interpreter, progress):
    def run(lock, sources, **limits):
        request = FetchRequest(
            pins=lock.pins,
            tags=interpreter.tags,
            sources=sources,
            folder=str(tmp_path / "wheels"),
            limits=FetchLimits(**limits),
        )
        return asyncio.run(fetch(request, progress))

    return run


class Index(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; remembers what was asked for and with which headers."""

    asked: list[tuple[str, dict[str, str]]]

    def __init__(self, *args, asked, **kwargs):
        self.asked = asked
        super().__init__(*args, **kwargs)

    def do_GET(self):
        self.asked.append((self.path, dict(self.headers)))
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """A simple index over HTTP on loopback: (url, folder, what was asked)."""
    root = tmp_path / "web"
    root.mkdir()
    asked: list[tuple[str, dict[str, str]]] = []
    handler = functools.partial(Index, asked=asked, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}", root, asked
        httpd.shutdown()
        thread.join()


def publish(root, wheel, *, digest=None, project="demo-pkg"):
    page = root / "simple" / project / "index.html"
    page.parent.mkdir(parents=True)
    (root / wheel.name).write_bytes(wheel.read_bytes())
    page.write_text(f'<a href="../../{wheel.name}#sha256={digest or sha256(wheel)}">{wheel.name}</a>')


def test_over_http_with_progress_and_then_without_any_network(dist, get, server, progress, tmp_path):
    url, root, asked = server
    wheel = make_wheel(dist)
    publish(root, wheel)
    lock = make_lock(wheel)
    result = get(lock, Sources(indexes=(f"{url}/simple/",)))
    stored = tmp_path / "wheels" / sha256(wheel) / wheel.name
    assert stored.read_bytes() == wheel.read_bytes()
    assert stored.stat().st_mode & 0o777 == 0o644
    assert result.downloaded == 1
    assert progress.phases == ["resolve", "fetch"]
    assert progress.seen[-1].done == wheel.stat().st_size
    count = len(asked)
    assert get(lock, Sources(indexes=(f"{url}/simple/",))).downloaded == 0
    assert len(asked) == count
    assert get(lock, Sources()).wheels == result.wheels
    assert sorted(p.name for p in (tmp_path / "wheels").iterdir()) == sorted([sha256(wheel), "listings"])


def test_the_fetcher_sees_no_key_and_sends_none(dist, get, server, monkeypatch, tmp_path):
    url, root, asked = server
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text("machine 127.0.0.1 login u password canary-in-netrc\n")
    (home / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("OPENAI_API_KEY", "canary-in-environ")
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    publish(root, wheel := make_wheel(dist))
    get(make_lock(wheel), Sources(indexes=(f"{url}/simple/",)))
    assert asked
    assert all("Authorization" not in headers for _, headers in asked)
    assert "OPENAI_API_KEY" not in clean_environment({"OPENAI_API_KEY": "x", "HTTPS_PROXY": "http://p"})


def test_bytes_that_differ_from_the_lock_are_refused_and_not_kept(dist, get, server, tmp_path):
    url, root, _ = server
    wheel = make_wheel(dist)
    lock = make_lock(wheel)
    honest = sha256(wheel)
    evil = make_wheel(dist, files={"demo_pkg/__init__.py": "EVIL = 1\n"})
    publish(root, evil, digest=honest)
    with pytest.raises(EnvironmentBuildError, match="hash mismatch: demo_pkg") as caught:
        get(lock, Sources(indexes=(f"{url}/simple/",)))
    assert caught.value.hint
    assert not list((tmp_path / "wheels").rglob("*.whl"))
    assert not list((tmp_path / "wheels").glob(".partial-*"))


def test_a_cached_wheel_that_was_changed_is_fetched_again(dist, get, server, tmp_path):
    url, root, _ = server
    publish(root, wheel := make_wheel(dist))
    lock = make_lock(wheel)
    get(lock, Sources(indexes=(f"{url}/simple/",)))
    stored = tmp_path / "wheels" / sha256(wheel) / wheel.name
    stored.write_bytes(b"evil")
    assert get(lock, Sources(indexes=(f"{url}/simple/",))).downloaded == 1
    assert stored.read_bytes() == wheel.read_bytes()


def test_sizes_are_capped_per_wheel_and_in_total(dist, get, server):
    url, root, _ = server
    publish(root, wheel := make_wheel(dist))
    size = wheel.stat().st_size
    sources = Sources(indexes=(f"{url}/simple/",))
    with pytest.raises(EnvironmentBuildError, match=f"larger than {size - 1} bytes"):
        get(make_lock(wheel), sources, wheel_bytes=size - 1)
    with pytest.raises(EnvironmentBuildError, match="together"):
        get(make_lock(wheel), sources, total_bytes=size - 1)
    assert get(make_lock(wheel), sources, wheel_bytes=size, total_bytes=size).downloaded == 1


def test_an_index_that_is_not_there_is_retryable_and_names_the_remedy(dist, get):
    wheel = make_wheel(dist)
    with pytest.raises(EnvironmentBuildError, match="demo-pkg: the index can't be reached") as caught:
        get(
            make_lock(wheel),
            Sources(indexes=("http://user:secret-pw@127.0.0.1:1/simple/",)),
            connect_seconds=1.0,
        )
    assert caught.value.retry == "later"
    assert caught.value.where == "http://127.0.0.1:1/simple/"
    assert "secret-pw" not in caught.value.message + caught.value.hint


def test_something_else_than_an_index_is_a_typed_error(dist, get, server):
    url, root, _ = server
    (root / "simple").mkdir()
    (root / "simple" / "demo-pkg").write_bytes(b"\0\1\2")
    with pytest.raises(EnvironmentBuildError):
        get(make_lock(make_wheel(dist)), Sources(indexes=(f"{url}/simple/",)))


class Hostile(http.server.BaseHTTPRequestHandler):
    """An index that answers by the first name of the path."""

    def do_GET(self):
        self.send_response(503 if "later" in self.path else 200)
        self.send_header("Retry-After", "3600")
        named = "application/vnd.pypi.simple.v1+json" if "deep" in self.path else "text/html"
        self.send_header("Content-Type", named)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if "deep" in self.path:
                self.wfile.write(b"[" * 200_000)
            while "endless" in self.path:
                self.wfile.write(b" " * 65_536)
            if "slow" in self.path:
                self.rfile.read()  # until whoever asks is gone

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("act", "says", "retry"),
    [
        ("endless", "page is larger than 67108864 bytes", "no"),
        ("later", "can't be reached", "later"),
        ("deep", "something else than the simple API", "no"),
        ("slow", "asking the indexes took longer than 2 s", "later"),
    ],
)
def test_an_index_has_a_build_wait_and_keep_no_more_than_is_ours_to_say(dist, get, act, says, retry):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as httpd:
        threading.Thread(target=httpd.serve_forever).start()
        index = f"http://127.0.0.1:{httpd.server_address[1]}/{act}/"
        bound = {"resolve_seconds": 2.0} if act == "slow" else {}
        try:
            with pytest.raises(EnvironmentBuildError, match=says) as caught:
                get(make_lock(make_wheel(dist)), Sources(indexes=(index,)), **bound)
        finally:
            httpd.shutdown()
    assert caught.value.retry == retry


def test_only_an_sdist_is_refused_and_it_does_not_run(dist, get, tmp_path):
    canary = tmp_path / "canary"
    sdist = make_sdist(dist, canary)
    with pytest.raises(EnvironmentBuildError, match="only a source distribution"):
        get(make_lock(sdist), Sources(indexes=(make_index(tmp_path, [sdist]),)))
    assert not canary.exists()
    assert not list((tmp_path / "wheels").rglob("*.tar.gz"))


def test_a_cancelled_fetch_leaves_no_process(dist, interpreter, tmp_path):
    async def run(port):
        lock = make_lock(make_wheel(dist))
        sources = Sources(indexes=(f"http://127.0.0.1:{port}/",))
        request = FetchRequest(
            pins=lock.pins, tags=interpreter.tags, sources=sources, folder=str(tmp_path / "w")
        )
        task = asyncio.create_task(fetch(request, lambda _: None))
        await asyncio.to_thread(silent.accept)  # it has come as far as the index
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        asyncio.run(run(silent.getsockname()[1]))
    children = psutil.Process().children(recursive=True)
    assert not any("sandbox.envs.fetch" in " ".join(child.cmdline()) for child in children)


def test_the_smallest_is_there_first_and_each_is_told(dist, interpreter, tmp_path, progress):
    for name, size in (("aaa", 300_000), ("bbb", 10), ("ccc", 30_000)):
        make_wheel(dist, name, files={f"{name}/data.bin": os.urandom(size)})
    lock, told = make_lock(*sorted(dist.glob("*.whl"))), []
    request = FetchRequest(
        pins=lock.pins,
        tags=interpreter.tags,
        sources=Sources(folders=(str(dist),)),
        folder=str(tmp_path / "wheels"),
        limits=FetchLimits(threads=1),
    )
    result = asyncio.run(fetch(request, progress, told.append))
    assert [wheel.name for wheel in told] == ["bbb", "ccc", "aaa"]
    assert [wheel.name for wheel in result.wheels] == ["aaa", "bbb", "ccc"]


def test_a_wheel_that_is_refused_ends_what_is_still_fetched(builder, dist, server, tmp_path, monkeypatch):
    """setuptools' neighbour of two gigabytes isn't waited for: here one that never comes."""
    url, root, _asked = server
    small = make_wheel(dist, files={"demo_pkg/__init__.py": "", "evil.pth": "import os\n"})
    large = make_wheel(dist, "large_pkg", files={"large_pkg/data.bin": os.urandom(50_000)})
    publish(root, small)
    publish(root, large, project="large-pkg")
    ended = threading.Event()
    serve = Index.do_GET

    def stall(self):
        if self.path.endswith(large.name):
            self.asked.append((self.path, {}))
            ended.wait(30)
        else:
            serve(self)

    monkeypatch.setattr(Index, "do_GET", stall)
    try:
        with pytest.raises(DependencyError) as caught:
            asyncio.run(
                builder(f"{url}/simple/").ensure(
                    make_lock(small, large), bridge="demo", on_progress=lambda _: None
                )
            )
        assert not ended.is_set()
    finally:
        ended.set()
    digest = hashlib.sha256(b"import os\n").hexdigest()
    assert "evil.pth: runs code at every start of an interpreter" in caught.value.message
    assert digest in caught.value.message
    assert (caught.value.where, "`pth` among the `weakenings`" in caught.value.hint) == (small.name, True)
    assert not list((tmp_path / "wheels").rglob(large.name))


def test_a_bridge_chooses_no_wheel_that_others_take_too(dist, get, server, tmp_path, interpreter):
    """It brings another platform's file of the same release, named as if it fitted."""
    url, root, asked = server
    fits, other = interpreter.tags[0], "cp311-cp311-macosx_11_0_arm64"
    files = {tag: make_wheel(dist, files={"demo_pkg/__init__.py": tag}, tag=tag) for tag in (fits, other)}
    publish(root, files[fits])
    lines = "".join(f" --hash=sha256:{sha256(one)}" for one in files.values())
    lock = parse_lock(f"demo_pkg==1.0{lines}\n", "requirements.lock")
    own = tmp_path / "own"
    own.mkdir()
    for tag in ("py3-none-any", fits):
        (own / f"demo_pkg-1.0-{tag}.whl").write_bytes(files[other].read_bytes())
    sources = Sources(indexes=(f"{url}/simple/",), own=str(own))
    for said in (sources, Sources(indexes=sources.indexes)):  # nor is anything of it remembered
        (wheel,) = get(lock, said).wheels
        assert (wheel.filename, wheel.sha256) == (files[fits].name, sha256(files[fits]))
    shutil.rmtree(tmp_path / "wheels")
    sole = parse_lock(f"demo_pkg==1.0 --hash=sha256:{sha256(files[other])}\n", "requirements.lock")
    asked.clear()
    (wheel,) = get(sole, sources).wheels  # what only it has
    assert wheel.sha256 == sha256(files[other])
    assert not asked
    with pytest.raises(EnvironmentBuildError):
        get(sole, Sources(indexes=sources.indexes))
    (wheel,) = get(lock, Sources(indexes=("http://127.0.0.1:1/simple/",), own=str(own))).wheels
    assert wheel.sha256 == sha256(files[other])  # where no index answers it is better than nothing
