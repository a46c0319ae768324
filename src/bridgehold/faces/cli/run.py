"""`bridgehold run` and `bridgehold shell`: commands as a client of the host's socket."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

import msgspec
import typer

from bridgehold import reads, strict
from bridgehold.client.once import Once
from bridgehold.config.layout import default_layout
from bridgehold.errors import BridgeholdError, DeniedError, HostLeavingError, HostUnavailableError, UsageError
from bridgehold.faces.cli import place
from bridgehold.faces.cli.known import typed_bridge, typed_tenant
from bridgehold.faces.render import print_cold, print_json, print_text
from bridgehold.faces.screen import err, out
from bridgehold.ids import ANONYMOUS_SESSION, LOCAL_TENANT, parse_command, parse_name
from bridgehold.policies.units import format_ms, format_size, parse_duration
from bridgehold.protocol.frames import MAX_FRAME
from bridgehold.protocol.values import Reply

if TYPE_CHECKING:
    from rich.progress import Progress

    from bridgehold.client.client import Client
    from bridgehold.client.sync import SyncClient

Operation = Annotated[
    str, typer.Argument(help="BRIDGE:OPERATION, such as python:execute.", callback=typed_bridge)
]
Tenant = Annotated[str, typer.Option(help="Whose data, keys and quotas.", callback=typed_tenant)]


_EXAMPLE = """Quote it for the shell: --args '{"code": "1+1"}'"""


def run(
    operation: Operation,
    args: Annotated[str, typer.Option("--args", help="Arguments as JSON; '-' or @FILE to read them.")] = "{}",
    tenant: Tenant = LOCAL_TENANT,
    session: Annotated[
        str, typer.Option(help="Session name or id; commands of one session share state.")
    ] = ANONYMOUS_SESSION,
    timeout: Annotated[str, typer.Option(help="A shorter deadline, such as 5s.")] = "",
    env: place.Env = None,
    cwd: place.Cwd = "",
    context: place.Context = "",
    limit: place.Limit = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show chunks and progress as they come.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the whole reply as JSON.")] = False,
    record: Annotated[
        str, typer.Option(help="Write what was said to this file, for tests with FakeHost.")
    ] = "",
) -> None:
    """Run one command; where no host runs, a private one is started for it."""
    parse_command(operation)  # before a host is started for nothing
    parse_name(tenant, "tenant")
    parse_name(session, "session")
    arguments = read_arguments(args) | place.placed(env, cwd, context)
    time_ms, limits = place.limits(limit)
    deadline = min(filter(None, (parse_deadline(timeout), time_ms)), default=0)
    shown = Live(frames=stream, output=not json_output) if stream or not (json_output or record) else None
    asked = _Request(operation, arguments, tenant, session, deadline)
    reply = None if record else _of_running_host(asked, shown, limits)
    if reply is None:
        import asyncio

        reply = asyncio.run(_run(asked, shown, record, limits))
    if json_output:
        print_json(reply)
        return
    print_value(reply)


def read_arguments(text: str) -> dict[str, Any]:
    """The JSON object of ``--args``. Raises `UsageError` that says where it goes wrong."""
    where = "--args"
    if text == "-":
        text, where = read_stdin(), "standard input"
    elif text.startswith("@"):
        where = text[1:]
        text = reads.read_text(Path(where), UsageError, most=MAX_FRAME)
    data = text.encode("utf-8", "surrogatepass")
    try:
        value = strict.loads(data, max_depth=strict.CALLERS_DEPTH)
    except strict.StrictError:
        value = _explained(data, text, where)
    if not isinstance(value, dict):
        raise UsageError("must be a JSON object", where=where, hint=_EXAMPLE)
    return value


def _explained(data: bytes, text: str, where: str) -> object:
    """Raises the `UsageError` that says where `data` goes wrong."""
    from bridgehold.protocol.plain import loads

    try:
        return loads(data, name="arguments")
    except UsageError as error:
        if error.message.startswith("not JSON"):
            reads.parse_json(text, UsageError, where, hint=_EXAMPLE)  # by line and character
        raise


def read_stdin() -> str:
    """All of the standard input, as far as a request can hold it. Raises `UsageError`."""
    try:
        data = sys.stdin.buffer.read(MAX_FRAME + 1)
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where="standard input") from error
    if len(data) > MAX_FRAME:
        raise UsageError(f"has more than {MAX_FRAME} bytes", where="standard input")
    return reads.decode(data, UsageError, "standard input")


def parse_deadline(text: str) -> int:
    """``30s`` in milliseconds; empty is 0, which leaves the policy's. Raises `UsageError`."""
    try:
        return parse_duration(text) if text else 0
    except ValueError as error:
        raise UsageError(f"--timeout: {error}") from error


class _Request(NamedTuple):
    operation: str
    arguments: dict[str, Any]
    tenant: str
    session: str
    deadline_ms: int


def _opening(asked: _Request, limits: dict[str, str]) -> dict[str, Any]:
    """What opens the session that `asked` is to run in, of limits of its own."""
    name = "" if asked.session == ANONYMOUS_SESSION else asked.session
    bridge = asked.operation.partition(":")[0]
    return {"bridge": bridge, "tenant": asked.tenant, "name": name, "limits": limits, "progress": True}


def _of_running_host(asked: _Request, shown: Live | None, limits: dict[str, str]) -> Reply | None:
    """The reply of the host that runs; None where none does, or where it leaves and has not begun with it."""
    params = {**asked._asdict(), "stream": shown is not None, "progress": True}
    try:
        host = Once.open(default_layout().socket)
    except HostUnavailableError:
        return None
    with host, build_bars() as built, shown or contextlib.nullcontext():

        def heard(event: dict[str, Any]) -> None:
            if event.get("type") == "building":
                built(event)
            elif shown is not None:
                shown(event)

        try:
            if limits and asked.session == ANONYMOUS_SESSION:
                params["session"] = host.hold(_opening(asked, limits), built)
            elif limits:
                params["session"] = host.request("session.open", _opening(asked, limits), built)["id"]
            return msgspec.convert(host.request("run", params, heard), type=Reply)
        except HostLeavingError:
            return None
        except DeniedError as error:
            from bridgehold.client.meant import may_be_a_slip, meant

            if may_be_a_slip("run", error):
                with contextlib.suppress(BridgeholdError):  # who is nobody here is told no bridges
                    error.hint = meant(params, host.request("bridges", {})) or error.hint
            raise error from None


async def _run(asked: _Request, shown: Live | None, record: str, limits: dict[str, str]) -> Reply:
    """The reply of a host that is started for it, or of any that is found, and recorded."""
    from bridgehold.client.client import Host

    opener: contextlib.AbstractAsyncContextManager[Client] = Host.open()
    if record:
        from bridgehold.faces.testing.recorder import recording

        opener = recording(record)
    async with opener as host:
        with building(host), shown or contextlib.nullcontext():
            if limits:
                opened = await host.request("session.open", _opening(asked, limits))
                asked = asked._replace(session=opened["id"])
            return await host.call(**asked._asdict(), on_event=shown)


@contextlib.contextmanager
def building(host: Client | SyncClient) -> Iterator[None]:
    """What is built while a command or session of `host` waits for it: as `build_bars` shows it."""
    with build_bars() as built:
        host.on_build = built
        try:
            yield
        finally:
            host.on_build = None


@contextlib.contextmanager
def build_bars() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Takes events of builds; shows them on standard error: a bar for each bridge, gone when done."""
    with contextlib.ExitStack() as stack:
        bars: Progress | None = None
        tasks: dict[str, Any] = {}

        def built(event: dict[str, Any]) -> None:
            nonlocal bars
            from bridgehold.faces.progress import build_progress, show_progress

            bridge = str(event.get("bridge"))
            if bars is None:
                err.say((f"building the environment of {bridge}: once, for its lock", "dim"))
                bars = stack.enter_context(build_progress())
            if bridge not in tasks:
                tasks[bridge] = bars.add_task(bridge, total=None, note="")
            show_progress(bars, tasks[bridge], bridge, event)

        yield built


_MARGIN = "  | "


class Live:
    """What a command says while it runs, on standard error: none of its lines looks like one of ours.

    `apart`: as a prompt shows it, each stream on its own.
    """

    def __init__(self, *, frames: bool = False, output: bool = True, apart: bool = False) -> None:
        self._frames = frames
        self._output = output
        self._apart = apart
        self._midline = False

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event: output as it comes, progress as a bar."""
        kind = event.get("type")
        if kind == "output" and self._output:
            cut = f"[… {event['cut']} bytes not shown]\n" if event.get("cut") else ""
            self._show(cut + str(event.get("text", "")), stdout=event.get("stream") == "stdout")
        elif kind == "chunk" and self._frames:
            data = event.get("data")
            self._show(data if isinstance(data, str) else msgspec.json.encode(data).decode())
        elif kind == "progress" and self._frames:
            self._show(f"{event.get('done')}/{event.get('total')} {event.get('note', '')}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._midline:
            self._print("\n")

    def _show(self, text: str, *, stdout: bool = False) -> None:
        if not self._apart and text:
            begins, ends = "" if self._midline else _MARGIN, "\n" * text.endswith("\n")
            text = begins + text.removesuffix("\n").replace("\n", f"\n{_MARGIN}") + ends
        self._print(text, stdout=stdout)

    def _print(self, text: str, *, stdout: bool = False) -> None:
        screen = out if stdout and self._apart else err
        screen.say(text, end="", whole=True)
        screen.file.flush()
        self._midline = bool(text) and not text.endswith("\n")


def print_value(reply: Reply) -> None:
    """Print a reply's value: text as it is, anything else as JSON."""
    value = reply.value
    if isinstance(value, str):
        print_text(value)
    else:
        print_json(value)
    print_cold(reply.cold_start)
    usage = reply.usage
    figures = f"{format_ms(usage.ms)} · cpu {format_ms(usage.cpu_us / 1000)} · peak "
    err.say((f"{figures}{format_size(usage.memory_peak_bytes)} · event {reply.receipt}", "dim"))
    if reply.anew:
        err.say((f"a new session: {reply.anew}", "yellow"))
    if reply.degraded:
        err.say(("the command ran, but its outcome could not be written to the audit", "bold yellow"))
