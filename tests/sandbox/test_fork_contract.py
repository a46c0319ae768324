"""After a fork nothing that should be a session's own is its zygote's: two real siblings, compared."""

from __future__ import annotations

from typing import Any

import pytest

from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.spec import BRIDGE, SDK
from sandbox.fork_support import SITE, Guest, Nursery
from sandbox.launcher_support import Machine

ENVIRONMENT = (("HOME", "/scratch"), ("PATH", "/usr/bin:/bin"), ("PYTHONPATH", f"{SDK}:{BRIDGE}"))

FRAMEWORK = """
    import logging, multiprocessing, os, random, signal, ssl, tempfile, threading, time, uuid
    import concurrent.futures, asyncio, ctypes, multiprocessing.synchronize
    multiprocessing.synchronize.SemLock._make_name()
    ctypes.CDLL(None).random(), ctypes.CDLL(None).lrand48()
    class Policy(asyncio.DefaultEventLoopPolicy):
        pass
    asyncio.set_event_loop_policy(Policy())
    asyncio.get_event_loop_policy().set_event_loop(asyncio.new_event_loop())
    tempfile.gettempdir()
    tempfile.mkstemp()  # the sequence of names has begun
    uuid.uuid1()
    multiprocessing.current_process().authkey
    random.random()
    ssl.RAND_bytes(8)
    own = random.Random()
    local = threading.local()
    local.value = 'of the zygote'
    lock = threading.Lock()
    os.environ['LEFT'] = 'by an import'
    os.umask(0)
    time.tzset()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pool = concurrent.futures.ThreadPoolExecutor(2)
    pool.submit(lambda: 1).result()
    import gc; kept = None
    for descriptor in os.listdir('/proc/self/fd'):
        try:
            if '/tmp/' in os.readlink('/proc/self/fd/' + descriptor):
                os.close(int(descriptor))
        except OSError:
            pass
"""
GENERATORS = {
    "random": "import random; value = random.random()",
    "secrets": "import secrets; value = secrets.token_hex(16)",
    "uuid4": "import uuid; value = str(uuid.uuid4())",
    "uuid1": "import uuid; one = uuid.uuid1(); value = [one.node, one.clock_seq]",
    "OpenSSL": "import ssl; value = ssl.RAND_bytes(16).hex()",
    "the C library's random": "import ctypes; value = ctypes.CDLL(None).random()",
    "the C library's lrand48": "import ctypes; value = ctypes.CDLL(None).lrand48()",
    "names of semaphores": "import multiprocessing.synchronize as s; value = s.SemLock._make_name()",
    "hashlib's salt": "import os; value = os.urandom(16).hex()",
    "names of temporary files": "import tempfile; value = next(tempfile._get_candidate_names())",
    "keys of child processes": "import multiprocessing; value = bytes(multiprocessing.current_process().authkey).hex()",
}


@pytest.fixture(scope="module")
def siblings(box: Machine) -> dict[str, list[Any]]:
    """What four siblings of one zygote say of each question, in a table."""
    answers: dict[str, list[Any]] = {}

    async def run(client: LauncherClient) -> None:
        nursery = Nursery(box, framework=FRAMEWORK)
        zygote = await nursery.zygote(client)
        guests = [await nursery.fork(client, zygote) for _ in range(4)]
        for name, code in (GENERATORS | STATE).items():
            answers[name] = [await guest.python(code) for guest in guests]
        for guest in guests:
            await guest.end()
        await zygote.end()

    box.drive(run)
    return answers


STATE = {
    "environment": "import os; value = dict(os.environ)",
    "environment as the kernel has it": "import os, subprocess; value = subprocess.check_output(['/usr/bin/env']).decode()",
    "umask": "import os; value = os.umask(0o022)",
    "folder": "import os; value = os.getcwd()",
    "handlers": "import signal; value = [str(signal.getsignal(n)) for n in (signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD)]",
    "mask": "import signal; value = len(signal.pthread_sigmask(signal.SIG_BLOCK, ()))",
    "descriptors": "import os; value = sorted(os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}'))",
    "a lock": "value = framework.lock.acquire(timeout=1); framework.lock.release()",
    "a pool": "value = framework.pool.submit(lambda: 41 + 1).result(30)",
    "an event loop": "import asyncio; value = asyncio.run(asyncio.sleep(0, 7))",
    "an event loop's policy": "import asyncio; value = type(asyncio.get_event_loop_policy()).__name__",
    "a child process": "import multiprocessing; p = multiprocessing.get_context('fork').Process(target=int); p.start(); p.join(); value = p.exitcode",
    "a rename from one folder to another": "import os; os.makedirs('/tmp/a'); os.makedirs('/tmp/b'); open('/tmp/a/x', 'w').close(); os.replace('/tmp/a/x', '/tmp/b/x'); value = os.listdir('/tmp/b')",
    "files": "import os; value = [os.listdir(p) for p in ('/scratch', '/dev/shm')]",
    "own pid": "import os; value = open('/proc/self/stat').read().split()[0] == str(os.getpid())",
    "process group": "import os; value = os.getsid(0) == os.getpid()",
}


@pytest.mark.parametrize("name", GENERATORS)
def test_no_two_siblings_draw_the_same(siblings: dict[str, list[Any]], name: str) -> None:  # ABUSE 38
    drawn = [str(value) for value in siblings[name]]
    assert len(set(drawn)) == len(drawn)


def test_the_environment_is_the_specs_and_nothing_more(siblings: dict[str, list[Any]]) -> None:
    for one in siblings["environment"]:
        assert one == {"HOME": "/scratch", "PATH": "/usr/bin:/bin"}
    for text in siblings["environment as the kernel has it"]:
        assert "LEFT" not in text


def test_mode_folder_and_signals_are_a_new_programs(siblings: dict[str, list[Any]]) -> None:
    assert set(siblings["umask"]) == {0o022}
    assert set(siblings["folder"]) == {"/scratch"}
    assert siblings["mask"] == [0] * 4
    for handlers in siblings["handlers"]:
        assert handlers == ["Handlers.SIG_DFL"] * 3 or handlers == ["0"] * 3


def test_its_descriptors_are_its_own_pipes_and_null(siblings: dict[str, list[Any]]) -> None:
    for kinds in siblings["descriptors"]:
        assert set(kinds) <= {"/dev/null", "pipe", "/proc/2/fd", "/proc"}, kinds
        assert kinds.count("pipe") <= 4


def test_locks_pools_loops_and_children_work(siblings: dict[str, list[Any]]) -> None:
    assert siblings["a lock"] == [True] * 4
    assert siblings["a pool"] == [42] * 4
    assert siblings["an event loop"] == [7] * 4
    assert siblings["an event loop's policy"] == ["Policy"] * 4
    assert siblings["a child process"] == [0] * 4
    assert siblings["a rename from one folder to another"] == [["x"]] * 4


def test_its_files_and_its_pid_are_its_own(siblings: dict[str, list[Any]]) -> None:
    assert siblings["files"] == [[[], []]] * 4
    assert siblings["own pid"] == [True] * 4
    assert siblings["process group"] == [True] * 4


def test_hooks_run_once_in_each_worker(box: Machine) -> None:
    framework = """
        import os
        from bridgehold_sdk import after_fork
        ran = []
        @after_fork
        def anew():
            ran.append(os.getpid())
    """

    async def run(client: LauncherClient) -> None:
        nursery = Nursery(box, framework=framework)
        zygote = await nursery.zygote(client)
        for _ in range(2):
            guest = await nursery.fork(client, zygote)
            assert await guest.python("import os; value = [framework.ran, os.getpid()]") == [[2], 2]
            await guest.end()
        await zygote.end()

    box.drive(run)


def test_what_the_import_left_running_is_named(box: Machine) -> None:
    """A thread that the framework starts keeps its sessions from being forked, and the answer says whose."""
    framework = "import threading, time; threading.Thread(target=time.sleep, args=(30,), daemon=True).start()"

    async def run(client: LauncherClient) -> None:
        zygote = await Nursery(box, framework=framework).zygote(client, attest=False)
        assert zygote.warmed["reason"] == "1 threads are left by framework"
        assert zygote.warmed["threaded"] == ["framework"]
        await zygote.end()

    box.drive(run)


def test_what_is_imported_comes_from_the_same_place_in_both_starts(box: Machine) -> None:
    """The framework's and the bridge's folder hold a module of one name, twice: one that is warm, and one that isn't."""
    bridge = """
        import sys
        import framework, other
        from bridgehold_sdk import Bridge, operation

        class Test(Bridge):
            @operation()
            def python(self, code: str):
                space = {"framework": framework}
                exec(code, space)
                return space.get("value")
    """
    nursery = Nursery(box, framework="import sys\npath = list(sys.path)", bridge=bridge)
    own, locks = box.home / "bridge" / nursery.tenant, box.home / "site" / nursery.tenant
    for folder, text in ((own, "where = 'own'"), (locks, "where = 'lock'")):
        for name in ("framework", "other"):
            if (folder, name) != (locks, "framework"):
                (folder / f"{name}.py").write_text(text)
    look = """
        import json, subprocess, sys
        import other
        child = subprocess.run([sys.executable, '-c', 'import bridgehold_sdk, other, sys; print(other.where)'],
                               capture_output=True, text=True, cwd='/')
        value = {'path': sys.path, 'framework': framework.__file__, 'other': other.where,
                 'warm': [entry for entry in framework.path if entry == '/bridge'], 'child': child.stdout + child.stderr}
    """

    async def act(client: LauncherClient) -> list[Any]:
        zygote = await nursery.zygote(client)
        forked = await nursery.fork(client, zygote, environment=ENVIRONMENT)
        found = [await forked.python(look)]
        await forked.end()
        await zygote.end()
        cold = Guest(*await client.launch(nursery.spec(start="cold", environment=ENVIRONMENT)), client)
        boot = {"bridge": "test", "entry": "forkbridge:Test", "worker_id": "w", "preload": ["framework"]}
        await cold.send({"type": "boot", **boot})
        assert (await cold.receive()).get("type") == "ready", cold.log()
        await cold.call("common:open", session={"id": "s", "name": "s", "tenant": nursery.tenant})
        found.append(await cold.python(look))
        await cold.end()
        return found

    try:
        forked, cold = box.drive(act)
    finally:
        for name in ("framework", "other"):
            (own / f"{name}.py").unlink()
        (locks / "other.py").unlink()
    assert forked == cold
    assert forked["framework"] == f"{SITE}/framework.py"
    assert (forked["other"], forked["warm"], forked["child"]) == ("own", [], "own\n")
    path = forked["path"]
    assert path[-3:] == [SDK, "/bridge", SITE]
    assert len(path) == len(set(path))
