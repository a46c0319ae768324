"""A bridge in a sandbox of its own, driven over the real wire: bwrap, pipes, the host's codec.

The launcher's sandboxes (uid, cgroup, seccomp, attestation) are tested in the rooms that make them;
here the inside view is the same, and what is tested is the guest.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bridgehold
from bridgehold.bridges.catalogue import Catalogue, check_ready
from bridgehold.bridges.frames import (
    BootFrame,
    CallFrame,
    CancelFrame,
    ChunkFrame,
    FaultFrame,
    GuestFrame,
    ProgressFrame,
    ReadyFrame,
    ResultFrame,
    StrayFrame,
    ToolFact,
    ToolReplyFrame,
)
from bridgehold.bridges.wire import FrameReader, encode
from bridgehold.host.shares.logs import CommandOutput
from bridgehold.sandbox.envs.interpreter import host_interpreter
from bridgehold.sandbox.envs.lock import read_lock
from bridgehold.sandbox.envs.store import EnvironmentStore
from hostile.stage import built_environments
from ways import open_way

SOURCE = Path(bridgehold.__file__).parent
PATIENCE = 90.0


class Guest:
    """One sandboxed worker and its four pipes."""

    def __init__(self, argv: list[str], *, drop: bool, max_frame: int = 8 << 20) -> None:
        to_read, self._to = os.pipe()
        self._from, from_write = os.pipe()
        self._log, log_write = os.pipe()
        self._out, out_write = os.pipe()
        identity: dict[str, Any] = (
            {"user": 65534, "group": 65534, "extra_groups": []} if drop and os.getuid() == 0 else {}
        )
        self.process = subprocess.Popen(
            [*argv, str(out_write)],
            stdin=to_read,
            stdout=from_write,
            stderr=log_write,
            pass_fds=(out_write,),
            **identity,
        )
        for descriptor in (to_read, from_write, log_write, out_write):
            os.close(descriptor)
        self.reader = FrameReader(max_frame=max_frame)
        self.log = b""
        """Standard error and output."""
        self.output: CommandOutput | None = None
        self.ended = False
        self.seen: list[GuestFrame | StrayFrame] = []
        """Every frame that has come and was not taken yet, in order."""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._from, selectors.EVENT_READ)
        self._selector.register(self._log, selectors.EVENT_READ)
        self._selector.register(self._out, selectors.EVENT_READ)
        self._next = 1

    def send(self, frame: BootFrame | CallFrame | CancelFrame | ToolReplyFrame) -> None:
        self.send_bytes(encode(frame))

    def send_bytes(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._to, view[:65536]) :]

    def boot(self, **fields: Any) -> ReadyFrame | FaultFrame:
        self.send(BootFrame(**fields))
        frame = self.take(lambda f: isinstance(f, ReadyFrame | FaultFrame))
        assert isinstance(frame, ReadyFrame | FaultFrame)
        return frame

    def open(self) -> Any:
        return self.value("common:open", {"session": {"id": "s-1", "name": "main", "tenant": "acme"}})

    def start(
        self, command: str, args: dict[str, object] | None = None, tools: tuple[ToolFact, ...] = ()
    ) -> int:
        call_id = self._next
        self._next += 1
        self.reader.expect(call_id)
        self.send(CallFrame(id=call_id, command=command, args=args or {}, tools=tools))
        return call_id

    def reply(self, call_id: int, patience: float = PATIENCE) -> ResultFrame | FaultFrame:
        frame = self.take(lambda f: isinstance(f, ResultFrame | FaultFrame) and f.id == call_id, patience)
        assert isinstance(frame, ResultFrame | FaultFrame)
        return frame

    def call(self, command: str, args: dict[str, object] | None = None) -> ResultFrame | FaultFrame:
        return self.reply(self.start(command, args))

    def value(self, command: str, args: dict[str, object] | None = None) -> Any:
        frame = self.call(command, args)
        assert isinstance(frame, ResultFrame), frame
        return frame.result

    def completed(self, command: str, args: dict[str, object] | None = None) -> Any:
        """The value of an operation with `output`, as the host completes it."""
        self.drain()
        self.output = CommandOutput()
        value = self.value(command, args)
        self.drain()
        written, self.output = self.output.finish(), None
        cut = bool(written.stdout_cut or written.stderr_cut)
        return {
            **value,
            "stdout": written.stdout,
            "stderr": written.stderr,
            "truncated": value["truncated"] or cut,
        }

    def drain(self) -> None:
        """Read what is there."""
        while self.pump(0):
            pass

    def fault(self, command: str, args: dict[str, object] | None = None) -> FaultFrame:
        frame = self.call(command, args)
        assert isinstance(frame, FaultFrame), frame
        return frame

    def take(self, wanted: Callable[[GuestFrame | StrayFrame], bool], patience: float = PATIENCE) -> Any:
        """The first frame that `wanted` accepts; earlier ones stay in `seen`."""
        deadline = time.monotonic() + patience
        while True:
            for frame in self.seen:
                if wanted(frame):
                    self.seen.remove(frame)
                    return frame
            if self.ended or not self.pump(deadline - time.monotonic()):
                raise AssertionError(f"no such frame; log:\n{self.log.decode(errors='replace')[-3000:]}")

    def chunks(self, call_id: int) -> list[ChunkFrame]:
        return [f for f in self.seen if isinstance(f, ChunkFrame) and f.id == call_id]

    def progress(self, call_id: int) -> list[ProgressFrame]:
        return [f for f in self.seen if isinstance(f, ProgressFrame) and f.id == call_id]

    def pump(self, seconds: float) -> bool:
        """Read what is there; False where nothing came in time."""
        ready = self._selector.select(max(0.0, seconds))
        for key, _ in ready:
            data = os.read(key.fd, 65536)
            if not data:
                self._selector.unregister(key.fd)
                self.ended = self.ended or key.fd == self._from
            elif key.fd in (self._log, self._out):
                self.log += data
                if self.output is not None:
                    self.output.write("stdout" if key.fd == self._out else "stderr", data)
            else:
                self.seen += self.reader.feed(data)
        return bool(ready)

    def settle_log(self, text: bytes) -> None:
        """Wait until `text` stands in the log."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.log:
            assert self.pump(deadline - time.monotonic()), self.log

    def end_of_input(self) -> int:
        """Close the host's end; the guest's exit status."""
        os.close(self._to)
        self._to = -1
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(PATIENCE)
        self._selector.close()
        for descriptor in (self._to, self._from, self._log, self._out):
            if descriptor >= 0:
                os.close(descriptor)


def interpreters() -> dict[str, Path]:
    """Pythons of this machine by version, from 3.10 on: PATH, uv, and the usual version managers."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    for root in (os.environ.get("PYENV_ROOT", ""), str(Path.home() / ".pyenv")):
        if root:
            folders += sorted(Path(root).glob("versions/3.*/bin"))
    folders += sorted((Path.home() / ".local/share/uv/python").glob("cpython-3.*/bin"))
    found: dict[str, Path] = {}
    for minor in range(10, 15):
        for folder in folders:
            path = folder / f"python3.{minor}"
            if path.is_file() and "shims" not in path.parts and f"3.{minor}" not in found:
                found[f"3.{minor}"] = path.resolve()
    return found


def sandbox_argv(
    python: Path, bridge: Path, site_packages: Path | None, binds: dict[str, Path] | None = None
) -> list[str]:
    """bwrap with the inside view of a worker: no network, nothing of the host's but the interpreter."""
    argv = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    for folder in ("/usr", "/lib", "/lib64", "/bin"):
        path = Path(folder)
        if path.is_symlink():
            argv += ["--symlink", str(path.readlink()), folder]
        elif path.exists():
            argv += ["--ro-bind", folder, folder]
    prefix = python.parent.parent
    if not python.is_relative_to("/usr"):
        argv += ["--ro-bind", str(prefix), str(prefix)]
    version = python.name.removeprefix("python")
    packages = f"/env/lib/python{version}/site-packages"
    argv += ["--symlink", str(python), "/env/bin/python"]
    argv += ["--ro-bind", str(site_packages), packages] if site_packages else ["--dir", packages]
    argv += [
        *("--ro-bind", str(SOURCE / "sandbox" / "inner"), "/opt/bridgehold/sdk/bridgehold_inner"),
        *("--ro-bind", str(SOURCE.parent / "bridgehold_sdk"), "/opt/bridgehold/sdk/bridgehold_sdk"),
        *("--ro-bind", str(bridge), "/bridge"),
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/scratch"),
        *("--setenv", "HOME", "/scratch", "--setenv", "LANG", "C.UTF-8", "--setenv", "PATH", "/usr/bin"),
        *(
            "--setenv",
            "OMP_NUM_THREADS",
            "1",
        ),  # a host says a session's cores; several spin for models this small
        *("--chdir", "/scratch"),
    ]
    for target, source in (binds or {}).items():
        argv += ["--bind", str(source), target]
    command = [
        "/env/bin/python",
        "-I",
        "-S",
        "-B",
        "-X",
        "utf8",
        "/opt/bridgehold/sdk/bridgehold_inner/boot.py",
    ]
    return [*argv, "--", *command]


def default_python() -> Path:
    """The one that this suite runs on, below its virtual environment."""
    return Path(sys.executable).resolve()


Launch = Callable[..., Guest]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """`launch(folder, python=…, site_packages=…)`: a sandboxed worker that waits for its boot frame."""
    yield from _launching()


@pytest.fixture(scope="module")
def launch_once() -> Iterator[Launch]:
    """As `launch`, for a worker that the module's tests share: those whose framework takes seconds to load."""
    yield from _launching()


def _launching() -> Iterator[Launch]:
    if shutil.which("bwrap") is None:
        pytest.skip("bwrap is not installed")
    with contextlib.ExitStack() as stack:

        def start(
            bridge: Path,
            *,
            python: Path | None = None,
            site_packages: Path | None = None,
            binds: dict[str, Path] | None = None,
            max_frame: int = 8 << 20,
        ) -> Guest:
            python = python or default_python()
            argv = sandbox_argv(python, bridge, site_packages, binds)
            # As root, an interpreter in a private home is readable by nobody else; ours is below /usr.
            guest = Guest(
                argv, drop=python.is_relative_to("/usr") and site_packages is None, max_frame=max_frame
            )
            stack.callback(guest.close)
            return guest

        yield start


@pytest.fixture
def bridge_folder(tmp_path: Path) -> Callable[[str], Path]:
    """`bridge_folder(source)`: a folder that holds ``sample.py`` with this text."""

    def make(source: str) -> Path:
        folder = tmp_path / "bridge"
        folder.mkdir(exist_ok=True)
        (folder / "sample.py").write_text(source)
        folder.chmod(0o755)
        open_way(tmp_path)
        return folder

    return make


@pytest.fixture(scope="session")
def pythons() -> dict[str, Path]:
    """Interpreters of this machine by version; at least the one that runs this suite."""
    return interpreters() or {f"3.{sys.version_info[1]}": default_python()}


@pytest.fixture(scope="session")
def environment() -> Callable[[str], Path]:
    """`environment("dspy")`: site-packages of a shipped bridge's lock, as set-up has built it."""
    store = EnvironmentStore(built_environments())
    python = host_interpreter()

    def find(name: str) -> Path:
        lock = read_lock(SOURCE / "bridges" / "shipped" / name / "requirements.lock")
        built = store.find(store.key(lock, python))
        if built is None:
            pytest.fail(f"the environment of {name} is missing; run: make environments")
        return store.path(built) / f"lib/python{python.minor}/site-packages"

    return find


def _pandas(launch: Launch, environment: Callable[[str], Path]) -> Guest:
    manifest = Catalogue.load().get("pandas")
    guest = launch(manifest.folder, site_packages=environment("pandas"))
    ready = guest.boot(
        bridge="pandas", version=manifest.version, entry=manifest.entry, preload=manifest.preload
    )
    assert isinstance(ready, ReadyFrame), ready
    check_ready(manifest, ready)
    guest.open()
    return guest


@pytest.fixture(scope="module")
def pandas_kept(launch_once: Launch, environment: Callable[[str], Path]) -> Guest:
    """A module's worker: pandas takes its second once."""
    return _pandas(launch_once, environment)


@pytest.fixture
def pandas(pandas_kept: Guest) -> Guest:
    """The module's worker, without a frame or an array of any test's before."""
    pandas_kept.drain()
    pandas_kept.seen.clear()
    for kind in ("frame", "array"):
        while left := pandas_kept.value(f"pandas:list_{kind}s")[f"{kind}s"]:
            for one in left:
                pandas_kept.value(f"pandas:delete_{kind}", {f"{kind}_id": one[f"{kind}_id"]})
    return pandas_kept


@pytest.fixture
def pandas_alone(launch: Launch, environment: Callable[[str], Path]) -> Guest:
    """A worker of the test's own, for one that leaves a call unfinished."""
    return _pandas(launch, environment)
