"""Runs a script of the tenant's own as ``python SCRIPT`` would, with its standard output in two.

What it prints, and what its children and C libraries write, goes to the log; what it writes to
``sys.stdout.buffer`` is its protocol, on a descriptor of its own. The script is told nothing of it.
For ``python -c`` there is no protocol, and standard output is what it always was. None of this
protects anybody: the host bounds and judges every byte outside.
Standard library and `bridgehold_sdk` only, Python 3.10 and up.
"""

from __future__ import annotations

import importlib.machinery
import io
import os
import runpy
import sys
from typing import Any, Dict, List

from bridgehold_sdk.streams import exit_status, finish, remember_source
from bridgehold_sdk.wire import let_go

from . import interpreter, sources, worker

GO = b"\n"
"""The host's last word before the pipes are the script's: it has read our last frame."""
_ENCODING, _ERRORS = "utf-8", "surrogateescape"
"""The interpreter's own, in UTF-8 mode."""


class Output(io.TextIOWrapper):
    """A `sys.stdout` whose text goes to the log and whose `buffer` is the protocol.

    Closing it closes no descriptor, as with the interpreter's own: scripts do it at their exit.
    """

    def __init__(self, log: int, protocol: int) -> None:
        super().__init__(
            _raw(log, "<stdout>"), _ENCODING, "backslashreplace", line_buffering=True, write_through=True
        )
        _set_mode(self, "w")
        self._protocol = io.BufferedWriter(_raw(protocol, "<stdout>"))

    @property
    def buffer(self) -> Any:
        """The stream of the protocol's bytes."""
        return self._protocol

    def fileno(self) -> int:
        """Whoever asks wants to write bytes, or to wait until it can."""
        return self._protocol.fileno()

    def flush(self) -> None:
        """Write what waits, text and bytes."""
        super().flush()
        if not self._protocol.closed:
            self._protocol.flush()

    def close(self) -> None:
        """Close both streams."""
        self._protocol.close()
        super().close()


def serve(boot: Dict[str, Any], reader: Any, writer: Any, frames_in: int, frames_out: int) -> int:
    """Say `ready`, be told whose session it is and what to run, run it to its end; the exit status."""
    from bridgehold_sdk import __version__, wire

    python = ".".join(map(str, sys.version_info[:3]))
    writer.write(wire.ready(boot["bridge"], boot.get("version", ""), [], python, __version__))
    call = reader.read()
    if call is None:
        return 0
    what = call["args"]["script"]
    writer.write(wire.result(call["id"], {"status": "open"}))
    if os.read(frames_in, 1) != GO:
        return 0
    os.environ.update(variables(boot.get("providers", {})))
    sources.forget()
    if what.get("callback"):
        worker.begin(what, frames_in, frames_out)
    else:
        connect(frames_in, frames_out, protocol=what["protocol"])
    status = finish(run_guarded(what))
    if what["protocol"]:
        tell(frames_out, status)
    return status


def tell(frames_out: int, status: int) -> None:
    """The exit status in a frame: nobody outside can wait for a process that a zygote forked."""
    body = b'{"type":"bridgehold_exited","status":%d}' % status
    try:
        os.write(frames_out, len(body).to_bytes(4, "big") + body)
    except OSError:
        return  # the script closed its output: the host says that it doesn't know


def variables(providers: Dict[str, Dict[str, str]]) -> Dict[str, str]:
    """Where providers' clients look for an address and a key: ours, and one that is worth nothing."""
    found = {}
    for name, fact in providers.items():
        prefix = name.upper().replace("-", "_")
        found[prefix + "_API_KEY"] = fact["placeholder"]
        found[prefix + "_API_BASE"] = found[prefix + "_BASE_URL"] = fact["base_url"]
    return found


def connect(frames_in: int, frames_out: int, *, protocol: bool) -> None:
    """0 is the caller's; 1 too for a plain script, and the log for one that speaks a protocol."""
    os.dup2(frames_in, 0)
    let_go(frames_in)
    stdin = io.TextIOWrapper(io.BufferedReader(_raw(0, "<stdin>", "rb")), _ENCODING, _ERRORS)
    _set_mode(stdin, "r")
    stdout: io.TextIOWrapper
    if protocol:
        stdout = Output(1, frames_out)
    else:
        os.dup2(frames_out, 1)
        let_go(frames_out)
        buffer = io.BufferedWriter(_raw(1, "<stdout>"))
        stdout = io.TextIOWrapper(buffer, _ENCODING, _ERRORS, write_through=True)
        _set_mode(stdout, "w")
    for name, stream in (("stdin", stdin), ("stdout", stdout)):
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _raw(descriptor: int, name: str, mode: str = "wb") -> io.FileIO:
    raw = io.FileIO(descriptor, mode, closefd=False)
    raw.name = name  # as the interpreter names its own
    return raw


def _set_mode(stream: io.TextIOWrapper, mode: str) -> None:
    setattr(stream, "mode", mode)  # noqa: B010 - as the interpreter does; for a type checker it is read-only


def run_guarded(what: Dict[str, Any]) -> int:
    """The exit status that the interpreter would give; what was raised is printed as it would be."""
    __tracebackhide__ = True
    try:
        run(what["kind"], what["text"], what["args"], what["path"])
    except BaseException as error:  # noqa: BLE001 - the interpreter's own last border
        return exit_status(error)
    return 0


def run(kind: str, text: str, args: List[str], path: List[str]) -> None:
    """`kind`: ``script`` (a file), ``code`` (``-c``), ``module`` (``-m``) or ``stdin``."""
    __tracebackhide__ = True
    first = os.path.dirname(text) if kind == "script" else ""
    sys.path[:0] = [first, *path]
    sys.argv = [{"script": text, "code": "-c", "stdin": "-"}.get(kind, text), *args]
    if kind == "module":
        runpy.run_module(text, run_name="__main__", alter_sys=True)
        return
    if kind == "script":
        with open(text, "rb") as file:
            source = file.read()
    else:
        source = text.encode() if kind == "code" else sys.stdin.buffer.read()
    main = interpreter.fresh_main()
    name = {"code": "<string>", "stdin": "<stdin>"}.get(kind, text)
    if kind == "script":
        main.__dict__.update(__file__=text, __cached__=None)
        main.__loader__ = importlib.machinery.SourceFileLoader("__main__", text)
    else:
        remember_source(name, source.decode("utf-8", "replace"))
    code = compile(source, name, "exec", dont_inherit=True)
    exec(code, main.__dict__)  # noqa: S102 - what it is for
