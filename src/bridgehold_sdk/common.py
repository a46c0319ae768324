"""The commands that every bridge has: ``common:ping`` and its kin, in the shapes DSPex knows."""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import TYPE_CHECKING, Any

from bridgehold_sdk.bridge import Session
from bridgehold_sdk.errors import InvalidInput
from bridgehold_sdk.plain import to_plain

if TYPE_CHECKING:
    from bridgehold_sdk.runtime import Runtime

MODE = "worker"
COMMANDS = ("ping", "get_stats", "get_capabilities", "health", "open", "close", "shutdown")


class Common:
    """State of the three moments, and the answers that need nothing of the framework."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._opened = False
        self._closed = False
        self.shutting_down = False

    def knows(self, name: str) -> bool:
        """Whether `name` is a command that every bridge has."""
        return name in COMMANDS

    def run(self, name: str, args: dict[str, Any]) -> Any:
        """On the main thread."""
        if name == "open":
            return self._open(args)
        if name == "ping":
            return self.ping(args)
        handlers = {
            "get_stats": self._stats,
            "get_capabilities": self._capabilities,
            "health": self._health,
            "close": self._close,
            "shutdown": self._shutdown,
        }
        return handlers[name]()

    def require_open(self) -> None:
        """Raise `InvalidInput` unless the session is open."""
        if not self._opened or self._closed:
            state = "is closed" if self._closed else "is not open yet"
            raise InvalidInput(f"the session {state}; common:open comes first, common:close last")

    def ping(self, args: object) -> dict[str, Any]:
        """From any thread; touches no foreign code."""
        runtime = self._runtime
        if isinstance(args, dict) and isinstance(args.get("worker_id"), str) and not runtime.worker_id:
            runtime.worker_id = args["worker_id"]
        return {
            "status": "ok",
            "timestamp": time.time(),
            "uptime": time.time() - runtime.started,
            "mode": MODE,
            "worker_id": runtime.worker_id,
            "framework": runtime.framework,
            "bridge": {"name": runtime.name, "version": runtime.version},
        }

    def busy_health(self, running: int | None, seconds: float) -> dict[str, Any]:
        """While a command runs: the bridge's own `health` is not asked, its state is the command's."""
        return {
            "status": "busy",
            "running": running,
            "running_ms": 0 if running is None else int(seconds * 1000),
            "checked": False,
        }

    def close_quietly(self) -> None:
        """At the end of the stream nobody waits for an answer; the log says what went wrong."""
        try:
            self._close()
        except Exception:  # noqa: BLE001 - a bridge's close is foreign code, and the end is the end
            import traceback

            traceback.print_exc(file=sys.stderr)

    def _open(self, args: dict[str, Any]) -> dict[str, Any]:
        session = args.get("session")
        if not isinstance(session, dict):
            raise InvalidInput("common:open takes a session")
        if self._opened:
            raise InvalidInput("the session is open already")
        texts = [session.get(key, "") for key in ("id", "name", "tenant")]
        if not all(isinstance(text, str) for text in texts):
            raise InvalidInput("a session's id, name and tenant are text")
        self._runtime.session = Session(texts[0], texts[1], texts[2], self._runtime.limits)
        self._runtime.bridge.open(self._runtime.session)
        self._opened = True
        return {"status": "open", "session": texts[0]}

    def _close(self) -> dict[str, Any]:
        if self._opened and not self._closed:
            self._closed = True
            self._runtime.bridge.close()
        return {"status": "closed"}

    def _shutdown(self) -> dict[str, Any]:
        self.shutting_down = True
        self._close()
        return {"status": "shutting_down", "worker_id": self._runtime.worker_id, "mode": MODE}

    def _health(self) -> dict[str, Any]:
        extra = self._runtime.bridge.health() if self._opened and not self._closed else None
        return {
            "status": "ok",
            "running": None,
            "running_ms": 0,
            "checked": True,
            **to_plain(dict(extra or {})),
        }

    def _stats(self) -> dict[str, Any]:
        runtime = self._runtime
        return {
            "command_count": runtime.command_count,
            "error_count": runtime.error_count,
            "uptime": time.time() - runtime.started,
            "memory_usage": _memory(),
            "framework": runtime.framework,
            **to_plain(dict(runtime.bridge.stats())),
        }

    def _capabilities(self) -> dict[str, Any]:
        runtime = self._runtime
        own = [f"{runtime.name}:{name}" for name in sorted(runtime.operations)]
        kinds = {fact.resource for fact in runtime.operations.values() if fact.resource}
        return {
            "framework": runtime.framework,
            "supported_operations": own + [f"common:{name}" for name in COMMANDS],
            "resources": sorted(kinds),
            "streaming": sorted(name for name, fact in runtime.operations.items() if fact.stream),
            "mode": MODE,
        }


def _memory() -> dict[str, int]:
    """Bytes, of this process: resident and virtual now, resident at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = file.read().split()
    size = os.sysconf("SC_PAGE_SIZE")
    return {"rss": int(pages[1]) * size, "vms": int(pages[0]) * size, "peak": peak}
