"""The border of the command line: streams, locale and arguments may be whatever they are.

Every failure leaves with its code, where it was and the remedy; no traceback does.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from bridgehold.hardening import BROKEN_PIPE, drop_output, prepare_streams

if TYPE_CHECKING:
    from bridgehold.errors import BridgeholdError

_INTERRUPTED = 130
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class _AskedToEndError(SystemExit):
    """A signal asked for the end: what is under way lets go of what it holds, as at any error."""


def _ask_to_end(number: int, _: FrameType | None) -> None:
    _heed_no_more()  # the next one ends this process at once
    raise _AskedToEndError(128 + number)


def _heed_no_more() -> None:
    for number in _ENDING:
        if signal.getsignal(number) is _ask_to_end:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """SIGTERM, and the end of the terminal, end the block as an exception; what serves hears them itself."""
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _ask_to_end)
    try:
        yield
    finally:
        _heed_no_more()


os.register_at_fork(after_in_child=_heed_no_more)


def guarded(command: Callable[[], object]) -> int:
    """Run `command`, and tell what comes of it. The exit status."""
    as_json = "--json" in sys.argv[1:]
    try:
        prepare_streams()
        check_arguments(sys.argv)
        with _ending_in_order():
            status = command()
        sys.stdout.flush()
        if status == _INTERRUPTED:
            _say_stopped()
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        return _report(_say_stopped, _INTERRUPTED)
    except _AskedToEndError as asked:
        return _report(_say_stopped, int(str(asked.code)))
    except BrokenPipeError:
        drop_output()
        return BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the last border: people get a sentence, not a traceback
        return _ended(error, as_json=as_json)


class _Output(io.FileIO):
    """Standard output, which says that it is what takes nothing more."""

    def write(self, data: Any) -> int:
        """See `io.FileIO.write`."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE:
                error.filename = "standard output"  # `errors.OUTPUT`
            raise


def named_output(stream: Any) -> Any:
    """`stream` over `_Output`, unless it is none of the interpreter's own."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    raw = _Output(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        raw if isinstance(stream.buffer, io.FileIO) else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _ended(error: Exception, *, as_json: bool) -> int:
    """The status after a failure, or after what typer raises to end a command."""
    import typer
    from typer.exceptions import TyperException

    if isinstance(error, typer.Abort):
        return _report(_say_stopped, _INTERRUPTED)
    if not isinstance(error, TyperException):
        return _failed(_ours(error), as_json=as_json)
    if type(error).__name__ == "NoArgsIsHelpError":  # asked for by leaving all out
        text = f"{error.format_message()}\n"
        return _report(lambda: sys.stderr.write(text), error.exit_code)
    return _failed(_usage(error), as_json=as_json)


def _say_stopped() -> None:
    sys.stderr.write("stopped\n")


def check_arguments(arguments: list[str]) -> None:
    """Raises `UsageError` for one that is no text."""
    for number, text in enumerate(arguments[1:], 1):
        try:
            text.encode()
        except UnicodeEncodeError:
            from bridgehold.errors import UsageError

            raise UsageError(
                "is not UTF-8",
                where=f"argument {number}",
                hint="Set the locale to C.UTF-8, or rename the file.",
            ) from None


NEVER_TYPED = (
    "A key never goes on a command line: one that did is in the shell's history, so replace it. "
    "Type it at the prompt, or pipe it in. "
)
_UNSAID = "bridgehold secrets set"
"""What is written too much here may be the key itself: it is not said again."""
_INSTEAD = {
    "bridgehold run": ("Got unexpected extra argument", "Arguments go in as JSON: --args '{\"key\": 1}'. "),
    _UNSAID: (
        "Got unexpected extra argument",
        NEVER_TYPED,
    ),
    "bridgehold tenant limit": ("No such option", "A ceiling is KEY=VALUE: sessions=2, memory=2GiB. "),
}
"""How what people write first is written here: by command, the beginning of what is said, and the remedy."""


def _usage(error: Any) -> BridgeholdError:
    from bridgehold.errors import UsageError

    path = getattr(getattr(error, "ctx", None), "command_path", "bridgehold")
    message, begins = error.format_message(), _INSTEAD.get(path, ("", ""))
    if path == _UNSAID and message.startswith(begins[0]):
        message = f"{begins[0]}(s)"
    instead = begins[1] if begins[0] and message.startswith(begins[0]) else ""
    return UsageError(message, where=path, hint=f"{instead}`{path} --help` shows what it takes.")


def _ours(error: Exception) -> BridgeholdError:
    from bridgehold.error_texts import from_os
    from bridgehold.errors import BridgeholdError, InternalError

    if isinstance(error, BridgeholdError):
        return error
    if isinstance(error, OSError):
        return from_os(error)
    return InternalError(f"{type(error).__name__}: {error}")


def _failed(error: BridgeholdError, *, as_json: bool) -> int:
    from bridgehold.error_texts import OUTPUT
    from bridgehold.faces.render import print_error

    as_json = as_json and error.where != OUTPUT
    return _report(lambda: print_error(error, as_json=as_json), error.exit_status)


def _report(tell: Callable[[], object], status: int) -> int:
    """`status`, once it was told to whoever listens."""
    try:
        tell()
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        drop_output()
    return status
