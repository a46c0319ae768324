"""One sink, served: reads what waits, sends it, and remembers where it stands.

A sink that is gone costs nobody anything: the journal is never asked, and its files are the queue. In order,
and at least once: what was sent when the process died before it had written that down is sent again; a
receiver knows it by its `instance` and `seq`. Nothing is ever passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from bridgehold import reads, writes
from bridgehold.audit.pushing.cursor import MOST_LINES, Cursor, next_batch, sizes, waiting
from bridgehold.audit.pushing.sinks import Sink, SinkConfig, SinkError, with_anchors
from bridgehold.errors import AuditError, BridgeholdError

IDLE_S = 1.0
"""Between looks at an audit of which nothing waits; so long a line must have been on the disk, too."""
_FIRST_S, _LONGEST_S = 1.0, 60.0
_SAY_EVERY_S = 5.0
_MOST_STATE = 64 * 1024


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Where a sink stands, as its file says. Times are seconds of the epoch."""

    cursor: Cursor = Cursor()
    sent: int = 0
    """Events that have arrived, of all time."""
    waiting: int = 0
    """Events that have not, when it was written."""
    problem: str = ""
    """Why the last one did not arrive."""
    failing_since: float = 0.0
    arrived: float = 0.0
    """When something arrived last."""
    looked: float = 0.0
    """When the process that serves the sink was seen to live last."""


def state_file(folder: Path, name: str) -> Path:
    """Where the state of a sink lies."""
    return folder / f"{name}.json"


def read_state(path: Path) -> State:
    """As the file says; of a sink that never began, the beginning. Raises `AuditError` where it is none."""
    hint = "Remove it: the sink begins anew."
    text = reads.read_text(path, AuditError, most=_MOST_STATE, hint=hint, or_none=True)
    if not text:
        return State()
    try:
        return msgspec.json.decode(text, type=State)
    except (msgspec.DecodeError, ValueError) as error:
        raise AuditError("not a sink's state", where=str(path), hint=hint) from error


class Pusher:
    """Serves `sink`; `step` until told to stop. `now` is the wall's clock, in seconds."""

    def __init__(
        self, config: SinkConfig, sink: Callable[[], Sink], *, audit: Path, anchors: Path, state: Path,
        now: Callable[[], float],
    ) -> None:  # fmt: skip
        """`sink` opens it; what it raises is tried again, too. `state`: the sinks' folder."""
        self._config, self._open = config, sink
        self._sink: Sink | None = None
        self._audit, self._anchors, self._now = audit, anchors, now
        self._path = state_file(state, config.name)
        self.state = read_state(self._path)
        self._settled: dict[str, int] = {}
        self._delay = _FIRST_S
        self._said = 0.0
        self._most = MOST_LINES
        """Lines of a batch: fewer, where the sink said that so many are too many."""

    def step(self) -> float:
        """Send one batch, if one waits. How many seconds to wait before the next step."""
        batch = None
        try:
            batch = next_batch(self._audit, self.state.cursor, self._settled, self._most)
            if batch is None:
                self._settled = sizes(self._audit)
                self._say()
                return IDLE_S
            if self._sink is None:
                self._sink = self._open()
            parcel = with_anchors(batch, self._anchors, only_anchors=self._config.only_anchors)
            if parcel.lines or parcel.anchors:
                self._sink.send(parcel)
        except SinkError as error:
            if error.too_large and batch is not None and len(batch.lines) > 1:
                self._most = len(batch.lines) // 2
                return 0.0
            return self._failed(str(error), error.again_s)
        except BridgeholdError as error:
            return self._failed(error.message, 0.0)
        except Exception as error:  # noqa: BLE001 - what an address or an answer leads to: said, and tried again
            return self._failed(f"{type(error).__name__}: look at its address", 0.0)
        self._delay, self._most = _FIRST_S, min(MOST_LINES, self._most * 2)
        self.state = State(
            cursor=batch.after,
            sent=self.state.sent + len(parcel.lines),
            arrived=self._now(),
            waiting=self.state.waiting,
        )
        self._say(at_once=True)
        return 0.0

    def _failed(self, problem: str, again_s: float) -> float:
        self._sink = None
        since = self.state.failing_since or self._now()
        self.state = msgspec.structs.replace(self.state, problem=problem[:300], failing_since=since)
        self._say()
        wait = max(self._delay, again_s)
        self._delay = min(self._delay * 2, _LONGEST_S)
        return wait

    def _say(self, *, at_once: bool = False) -> None:
        """Write the state down: what arrived at once, what waits every few seconds."""
        now = self._now()
        due = now - self._said >= _SAY_EVERY_S or now < self._said
        if not (at_once or due):
            return
        if due:
            left = waiting(self._audit, self.state.cursor)
            self.state = msgspec.structs.replace(self.state, waiting=left, looked=now)
            self._said = now
        try:
            writes.replace(self._path, msgspec.json.encode(self.state))
        except OSError as error:
            raise AuditError(f"can't be written: {error.strerror}", where=str(self._path)) from error
