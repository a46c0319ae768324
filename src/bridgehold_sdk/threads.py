"""Threads of the SDK's own. No signal comes to them: signals are the code's, which may have blocked them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable


def begin_thread(name: str, target: Callable[..., object], *args: object) -> threading.Thread:
    """Start a daemon thread that has every signal blocked. `RuntimeError` where there is no room for it.

    The kernel gives a signal for the process to any thread that has not blocked it. `sigwait` and `signalfd`
    of code that has blocked it in its only thread would wait for ever, or its default action end the process.
    """
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()  # with its starter's mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread
