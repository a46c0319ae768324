"""The parent of the host's processes: starts them, joins them by sockets, ends all when one ends.

It reads what the host asks it (`handover`, `files`), and no byte that anyone else sends. As root the host,
the keeper, the journal and, where there is one, the HTTP face get kernel uids of their own, so that taking
over one gives nothing of another; the launcher stays privileged.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from bridgehold import clock, writes
from bridgehold.audit.recovery import newest
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config, load_config
from bridgehold.errors import InternalError, UnsupportedError, error_classes
from bridgehold.host.startup import LEAVE
from bridgehold.retold import Teller, configuration_file
from bridgehold.sandbox.attest.view import open_view
from bridgehold.sandbox.cgroups import scope
from bridgehold.sandbox.limits import slices
from bridgehold.supervisor import plans
from bridgehold.supervisor.beside import Beside
from bridgehold.supervisor.changing import Changing
from bridgehold.supervisor.folders import hand_over_credentials, prepare_folders
from bridgehold.supervisor.handover import (
    Inherited,
    OriginalMounts,
    Replacing,
    become,
    held_lock,
    host_listener,
    listen_at,
)
from bridgehold.supervisor.owner import KEPT, READY, Owner
from bridgehold.supervisor.rereading import Rereading

_END_SECONDS = 10.0
"""How long the others may take after the first one ended, before they are killed."""

_CAUSE_SECONDS = 0.3
_OWN_STATUSES = frozenset(kind.exit_status for kind in error_classes()) - {1}
"""What a process of ours says when it can't start; 1 is Python's own too."""
_AGAIN = -1
"""No exit status: the host has left for another one, or had its time to."""
_ALONE = -2
"""Nor is this: whoever wanted the host is gone, and nobody else is connected to it."""


class Child:
    """One of them, with a pidfd: nothing here is ever signalled by a bare number."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.process = process
        self.pidfd = os.pidfd_open(process.pid)

    def signal(self, number: int) -> None:
        """Send a signal by pidfd; a process that has ended is no error."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)


def run(
    layout: Layout,
    *,
    ready: Callable[[], None] | None = None,
    owner: Owner | None = None,
    http: socket.socket | None = None,
    given: Inherited | None = None,
    command: Sequence[str] = (),
) -> int:
    """Start all and watch them until one ends, a signal comes, or nobody wants a private host any more.

    `ready` is called once the host listens. `owner`: of a private host, who wants it. `http`: what the HTTP
    face listens on, if there is one. `given`: what this process was started with. `command`: what starts the
    next version; without it there is none.
    Returns the exit status: 0 after an asked-for end. Where the host is replaced it doesn't return.
    """
    given = given or Inherited()
    private, owner = owner is not None, owner or Owner()
    outside = OriginalMounts()
    config = load_config(layout.config_file)
    prepare_folders(layout, config, service=not private)
    with contextlib.suppress(UnsupportedError):  # the launcher tells what there is then, and the remedy
        scope.enter(config.host.cgroup, os.environ)
    if os.getuid() == 0:
        open_view(plans.needed_paths(layout, config))
    signal.signal(LEAVE, signal.SIG_IGN)  # until the HTTP face has its own answer to it
    slices.shorten(reset_on_fork=False)  # for all of them; the launcher keeps it from the sandboxes
    with held_lock(layout, given.lock, private=private) as lock:
        clock.ONE.saw(newest(layout.audit))
        listener = host_listener(layout, given)
        children, channel, rereading = _start(
            layout, config, listener, http, service=not private, lasting=given.lasting
        )
        beside, changing = Beside(layout, config), Changing(layout, lasts=not private)
        patience = config.host.drain_s + _END_SECONDS
        replacing = Replacing(
            channel,
            command,
            outside,
            ready=ready or (lambda: owner.say(READY)),
            kept=lambda: owner.say(KEPT),
            leave=lambda: _leave(children),
            write=changing.write,
            release=changing.release,
            reread=rereading.answer,
        )
        again = alone = False
        signals: list[int] = []
        try:
            status = _watch(children, replacing, owner, patience, signals)
            again, alone = status == _AGAIN, status == _ALONE
        finally:
            replacing.close()
            rereading.close()
            beside.stop()
            kept_open = given.lasting or again
            rest = _END_SECONDS if again else patience  # a host that is replaced has had its own time
            kept_listener = None if kept_open else listener
            if alone:  # who comes from now on begins another one, which waits for the lock
                layout.socket.unlink(missing_ok=True)
                listener.close()
            word = signal.SIGHUP if alone else signal.SIGTERM
            _end(children, rest, signals, leaving=kept_open, listener=kept_listener, word=word)
            again = again and not _end_requested(signals)
            if not (given.lasting or again):
                layout.socket.unlink(missing_ok=True)
            layout.tokens_socket.unlink(missing_ok=True)
            shutil.rmtree(layout.run / "credentials", ignore_errors=True)
        if again:
            kept = Inherited(host=listener, http=http, lock=lock, lasting=given.lasting)
            try:
                become(command, kept, outside)
            finally:  # it did not
                if not given.lasting:
                    layout.socket.unlink(missing_ok=True)
        return 0 if alone else status


def _start(
    layout: Layout,
    config: Config,
    listener: socket.socket,
    http: socket.socket | None,
    *,
    service: bool,
    lasting: bool,
) -> tuple[list[Child], socket.socket, Rereading]:
    launcher_host, launcher_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    keeper_host, keeper_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    journal_host, journal_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    launcher_journal, journal_launcher = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    keeper_journal, journal_keeper = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    tokens = listen_at(layout.tokens_socket, 0o600) if http is not None else None
    channel, parent = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sockets = [launcher_host, launcher_end, keeper_host, keeper_end, journal_host, journal_end, parent]
    keeper_intake, keeper_inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    journal_intake, journal_inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    keeper_teller, keeper_told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launcher_teller, launcher_told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    rereading = Rereading(layout, Teller("keeper", keeper_teller), Teller("launcher", launcher_teller))
    sockets += [
        keeper_told,
        launcher_told,
        launcher_journal,
        journal_launcher,
        keeper_journal,
        journal_keeper,
        keeper_intake,
        keeper_inner,
        journal_intake,
        journal_inner,
    ]
    if tokens is not None:
        sockets.append(tokens)
    credentials = hand_over_credentials(layout)
    plan = plans.plan(layout, config, service=service, credentials=credentials, lasting=lasting)
    children: list[Child] = []
    try:
        given = {
            "host": journal_end.fileno(),
            "launcher": journal_launcher.fileno(),
            "keeper": journal_keeper.fileno(),
            "intake": journal_inner.fileno(),
        }
        children.append(_spawn("journal", plan.journal, plan.roles.journal, given))
        given = {
            "host": keeper_end.fileno(),
            "intake": keeper_inner.fileno(),
            "journal": keeper_journal.fileno(),
            "supervisor": keeper_told.fileno(),
        }
        children.append(_spawn("keeper", plan.keeper, plan.roles.keeper, given))
        given = {
            "control": launcher_end.fileno(),
            "journal": launcher_journal.fileno(),
            "supervisor": launcher_told.fileno(),
        }
        children.append(_spawn("launcher", plan.launcher, os.getuid(), given))
        ends = {
            "launcher": launcher_host.fileno(),
            "keeper": keeper_host.fileno(),
            "journal": journal_host.fileno(),
            "listener": listener.fileno(),
            "parent": parent.fileno(),
            "keeper-intake": keeper_intake.fileno(),
            "journal-intake": journal_intake.fileno(),
        }
        if tokens is not None:
            ends["tokens"] = tokens.fileno()
        children.append(_spawn("host", plan.host, plan.roles.host, ends))
        if http is not None:
            if plan.roles.http != os.getuid():
                writes.give(layout.tokens_socket, plan.roles.http, plan.roles.http, 0o600)
            children.append(_spawn("http", plan.http, plan.roles.http, {"listener": http.fileno()}))
    except BaseException:
        _end(children, _END_SECONDS, [], leaving=False, listener=None)
        raise
    finally:
        for end in sockets:
            end.close()
    return children, channel, rereading


def _spawn(name: str, plan: plans.ProcessPlan, uid: int, sockets: dict[str, int]) -> Child:
    with configuration_file(plan.config) as config:
        descriptors = {**sockets, "config": config.fileno()}
        argv = [sys.executable, *plans.INTERPRETER_FLAGS, "-m", plan.module]
        for key, descriptor in descriptors.items():
            argv += [f"--fd-{key}", str(descriptor)]
        role = {} if uid == os.getuid() else {"user": uid, "group": uid, "extra_groups": []}
        process = subprocess.Popen(  # type: ignore[call-overload]  # mypy can't match **role
            argv,
            stdin=subprocess.DEVNULL,
            pass_fds=tuple(descriptors.values()),
            env=plan.environment,
            cwd="/",
            start_new_session=True,
            **role,
        )
    return Child(name, process)


def _watch(
    children: list[Child], replacing: Replacing, owner: Owner, patience: float, signals: list[int]
) -> int:
    """Until one ends, somebody asks for the end, nobody wants the host any more, or it is to be replaced and
    `patience` is over."""
    host = next(child for child in children if child.name == "host")
    poller = select.poll()
    replacing.watch(poller)
    for child in children:
        poller.register(child.pidfd, select.POLLIN)
    if owner.lifeline >= 0:
        poller.register(owner.lifeline, select.POLLIN)
    deadline = 0.0
    with _signals(signals) as asked:
        poller.register(asked, select.POLLIN)
        while True:
            if replacing.agreed and not deadline:
                deadline = time.monotonic() + patience
            left = max(0.0, deadline - time.monotonic())
            if deadline and not left:
                sys.stderr.write("bridgehold: the host did not leave in its time; it is ended\n")
                return _AGAIN
            for descriptor, _ in poller.poll(left * 1000 if deadline else None):
                if replacing.takes(descriptor, poller):
                    if replacing.deserted:
                        return _ALONE
                    continue
                if descriptor == owner.lifeline:  # it is gone; the host says once everybody else is
                    poller.unregister(descriptor)
                    owner.is_gone()
                    if not replacing.serves:
                        return 0
                    host.signal(signal.SIGHUP)
                    continue
                if descriptor == asked:
                    return 0
                status = _explain_end(_first_to_fail(children, descriptor), host, patience)
                return _AGAIN if replacing.agreed and status == 0 else status


@contextlib.contextmanager
def _signals(signals: list[int]) -> Iterator[int]:
    """A descriptor that can be read once a signal has come that asks for the end."""
    asked, wake = os.pipe()
    os.set_blocking(wake, False)
    previous = signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda came, _: signals.append(came))
    try:
        yield asked
    finally:
        signal.set_wakeup_fd(previous)
        for descriptor in (asked, wake):
            os.close(descriptor)


def _leave(children: list[Child]) -> None:
    """The HTTP face takes nobody more: who connects from now on waits for the next."""
    for child in children:
        if child.name == "http":
            child.signal(LEAVE)


def _first_to_fail(children: list[Child], pidfd: int) -> Child:
    """Whose end was the cause: one that failed, rather than one that followed it to the end."""
    ended = next(child for child in children if child.pidfd == pidfd)
    deadline = time.monotonic() + _CAUSE_SECONDS
    while time.monotonic() < deadline:
        for child in children:
            if child.process.poll():
                return child
        time.sleep(0.01)
    return ended


def _explain_end(ended: Child, host: Child, patience: float) -> int:
    """The host says whether an end was asked for: the others follow it, and may be seen to go before it."""
    status = ended.process.wait()
    if status == 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if host.process.wait(patience) == 0:
                return 0
    sys.stderr.write(
        f"bridgehold: the {ended.name} process ended with status {status}; stopping everything\n"
    )
    return status if status in _OWN_STATUSES else InternalError.exit_status


def _end_requested(signals: list[int]) -> bool:
    """Whether a signal asked for the end; from now on one ends this process, whatever it runs."""
    ending = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)  # whoever came earlier is in `signals` now
    asked = bool(signals or signal.sigpending() & set(ending))
    if not asked:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return asked


def _end(
    children: list[Child],
    patience: float,
    signals: list[int],
    *,
    leaving: bool,
    listener: socket.socket | None,
    word: int = signal.SIGTERM,
) -> None:
    """Host first (it lets commands finish, ends sessions and writes why), then the rest; what is left is
    killed.

    The HTTP face comes after it: its callers are told how their commands ended. A signal that comes
    meanwhile is passed on to the host, which then waits no longer, and is added to `signals`. `listener`:
    closed with the host, so that nobody waits for a next one. `word`: what tells the host.
    """
    deadline = time.monotonic() + patience
    if leaving:
        _leave(children)
    for name in ("host", "http", "launcher", "keeper", "journal"):
        for child in (child for child in children if child.name == name):
            if name == "host" and threading.current_thread() is threading.main_thread():

                def passed_on(number: int, _: object, host: Child = child) -> None:
                    signals.append(number)
                    host.signal(signal.SIGTERM)

                for number in (signal.SIGTERM, signal.SIGINT):  # before the host's own: none is lost
                    signal.signal(number, passed_on)
            child.signal(word if name == "host" else signal.SIGTERM)
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.signal(signal.SIGKILL)
                child.process.wait()
            os.close(child.pidfd)
        if name == "host" and listener is not None:
            listener.close()


def encode(config: msgspec.Struct) -> bytes:
    """A process's configuration as it goes through a descriptor: JSON."""
    return msgspec.json.encode(config)
