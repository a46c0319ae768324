"""What a container's runtime took away, named by its option; and what a user's own systemd answers."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox import containers
from bridgehold.sandbox.cgroups import scope
from bridgehold.sandbox.doctor import service
from bridgehold.sandbox.limits import shortage


@pytest.mark.parametrize(
    ("error", "option"),
    [
        (OSError(errno.EPERM, "Operation not permitted"), containers.NAMESPACES),
        (OSError(errno.EACCES, "Permission denied", "/proc/37/ns/net"), containers.ATTACH),
        (OSError(errno.EROFS, "Read-only", "/proc/sys/net/ipv4/tcp_rmem"), containers.PROC),
        (OSError(errno.ENOENT, "No such file", "/proc/51/ns/net"), containers.PROC),
        (OSError(errno.EPERM, "Operation not permitted", "/somebody's/file"), None),
        (OSError(errno.EROFS, "Read-only", "/usr/lib"), None),
        (ValueError("nothing of the kernel's"), None),
    ],
)
def test_a_refusal_names_the_option_in_a_container_and_nothing_outside(
    error: Exception, option: containers.Option | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = RuntimeError("a step of a start")
    wrapped.__cause__ = error
    assert containers.lack(wrapped) == option
    for inside in (True, False):
        monkeypatch.setattr(containers, "contained", lambda _, inside=inside: inside)
        hint = shortage.typed(error).hint
        named = [one for one in ("SYS_ADMIN", "SYS_PTRACE", "unmask=ALL") if one in hint]
        assert bool(named) == (inside and option is not None), hint
        if named:
            assert all(runtime in hint for runtime in ("Docker", "Podman", "Kubernetes")), hint


def test_whatever_a_runtime_took_is_named_by_an_option_and_never_by_none() -> None:
    for trial in service.TRIALS:
        assert str(trial.option) in service._options([trial])
        assert "Kubernetes " in str(trial.option)


def test_what_each_runtime_leaves_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MARKS", (str(tmp_path / "mark"),))
    assert not containers.contained({})
    assert containers.contained({"container": "podman"})
    (tmp_path / "mark").touch()
    assert containers.contained({})


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's XDG_RUNTIME_DIR whose process would need a scope."""
    monkeypatch.setattr(scope, "_wanted", lambda: True)
    monkeypatch.setattr(scope, "_SECONDS", 0.5)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() or 1000)
    return tmp_path


def play(path: Path, *, answers: bytes) -> threading.Thread:
    """Somebody at a user's bus who lets one in and then sends `answers`."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener, listener.accept()[0] as stream:
            stream.recv(4096)
            stream.sendall(b"OK 1234deadbeef\r\n")
            while b"BEGIN" not in stream.recv(4096):
                pass
            stream.sendall(answers)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "answers", [b"", b"not a message at all" * 10, b"\xff" * 4096], ids=["end", "text", "noise"]
)
def test_a_manager_that_answers_nonsense_gives_no_scope_and_costs_a_refusal(
    runtime: Path, answers: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(runtime / "bus", answers=answers)
    os.chown(runtime / "bus", os.getuid(), -1)
    with pytest.raises(UnsupportedError, match="the user's systemd gives no scope: bus"):
        scope.enter("auto", {"XDG_RUNTIME_DIR": str(runtime)})


def test_nobody_elses_socket_is_asked_and_nothing_is_asked_for_a_cgroup_that_is_named(runtime: Path) -> None:
    assert not scope.enter("auto", {"XDG_RUNTIME_DIR": str(runtime)})
    assert not scope.enter("v2:/mine", {"XDG_RUNTIME_DIR": str(runtime)})
    assert not scope.enter("auto", {})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runtime / "bus"))
        os.chown(runtime / "bus", os.getuid() + 1, -1)
        assert not scope.enter("auto", {"XDG_RUNTIME_DIR": str(runtime)})


def test_what_is_asked_for_is_this_process_alone_to_divide() -> None:
    message = scope.request("bridgehold-x.scope", 4711)
    name, mode, properties, _ = message.body
    assert (name, mode) == ("bridgehold-x.scope", "fail")
    assert dict(properties)["PIDs"] == ("au", [4711])
    assert dict(properties)["Delegate"] == ("b", True)
    assert message.serialise(1)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", containers.PROC),
        ("bwrap: Can't set hostname to sandbox: Operation not permitted", containers.HOSTNAME),
        ("bwrap: No permissions to create new namespace", containers.NAMESPACES),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", containers.CALLS),
        ("bwrap: anything else", None),
    ],
)
def test_what_bubblewrap_says_names_the_option_in_a_container(
    words: str, option: containers.Option | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for inside in (True, False):
        monkeypatch.setattr(containers, "contained", lambda _, inside=inside: inside)
        said = containers.complained(words)
        assert said == (f"Start the container with it allowed: {option}." if inside and option else None)
