"""What a bridge author writes: a subclass of `Bridge` whose operations are decorated methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from bridgehold_sdk.errors import ProviderNotGranted

if TYPE_CHECKING:
    from bridgehold_sdk.artifacts import Artifacts

F = TypeVar("F", bound=Callable[..., Any])

Effect = Literal["create", "read", "run", "delete", "configure"]
EFFECTS = ("create", "read", "run", "delete", "configure")
_MARK = "__bridgehold_operation__"
_COROUTINE = 0x80
"""`inspect.CO_COROUTINE`; importing inspect would cost every start six milliseconds."""


class Provider(NamedTuple):
    """Where to reach a provider, and with what. Both go to the framework as keywords."""

    base_url: str
    placeholder: str
    """Not a key: the gateway puts the key in. Worthless outside this session."""
    shape: str = "openai"


class Tool(NamedTuple):
    """A function of the host's side, offered to the running command. Calling it runs it there."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema of the arguments."""
    call: Callable[[str, dict[str, Any]], Any]

    def __call__(self, /, **arguments: Any) -> Any:
        """Its result, from any thread. Raises `ToolError`."""
        return self.call(self.name, arguments)


class Limits(NamedTuple):
    """What the session's policy grants; 0: not told. The kernel holds them, whatever a library believes."""

    memory_bytes: int = 0
    """Of all processes together, with what lies in /scratch, /tmp and /dev/shm."""
    cpu_millis: int = 0
    """Thousandths of a processor."""
    processes: int = 0
    """With threads."""
    open_files: int = 0
    file_size_bytes: int = 0
    scratch_bytes: int = 0
    shm_bytes: int = 0
    response_bytes: int = 0
    request_bytes: int = 0
    command_ms: int = 0

    @property
    def processors(self) -> int:
        """How many threads are worth starting; at least one."""
        return max(1, -(-self.cpu_millis // 1000))


class Session(NamedTuple):
    """What a bridge is told of its session, once, in `open`."""

    id: str
    name: str
    tenant: str
    limits: Limits = Limits()


class Operation(NamedTuple):
    """What the decorator says; the manifest says the same, with schemas, and `ready` must agree."""

    name: str
    effect: str = "run"
    resource: str = ""
    id_field: str = ""
    stream: bool = False
    method: str = ""


class Context(Protocol):
    """What the runtime gives an instance once it is attached."""

    @property
    def session(self) -> Session:
        """Whose session it is."""

    @property
    def providers(self) -> Mapping[str, Provider]:
        """The granted model providers by name, with address and placeholder key."""

    def progress(self, done: int, total: int, note: str) -> None:
        """Tell the caller that `done` of `total` is done."""

    def emit(self, data: object) -> None:
        """Send a chunk of the running command's stream."""

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The tools that the current command may call, by name."""

    @property
    def result_bytes(self) -> int:
        """How many bytes of JSON a result may have."""

    @property
    def takes_parts(self) -> bool:
        """Whether bytes may go beside a result's JSON."""

    @property
    def interrupted(self) -> bool:
        """Whether the command in flight was asked to stop."""

    def note_callers(self, error: BaseException) -> None:
        """Mark `error` as the caller's own: its traceback goes to the caller."""


class CallersCode:
    """A block that runs code of the caller's: what it raises is the caller's own, never the host's codes."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            self._context.note_callers(error)


def operation(
    *,
    name: str = "",
    effect: Effect = "run",
    resource: str = "",
    id_field: str = "",
    stream: bool = False,
) -> Callable[[F], F]:
    """Make a method an operation: `bridge:name` runs it with the command's arguments as keywords.

    `effect` is one of create, read, run, delete, configure. With `stream=True` the method is a
    generator: what it yields goes out as chunks, what it returns is the result.
    """
    if effect not in EFFECTS:
        raise ValueError(f"effect {effect!r} is none of {', '.join(EFFECTS)}")

    def mark(method: F) -> F:
        if getattr(method, "__code__", None) and method.__code__.co_flags & _COROUTINE:
            raise TypeError(f"{method.__name__}: operations are plain methods; use asyncio.run inside")
        fact = Operation(name or method.__name__, effect, resource, id_field, stream, method.__name__)
        setattr(method, _MARK, fact)
        return method

    return mark


class Bridge:
    """One framework, one session. Handlers run one at a time on the main thread.

    Three moments: `open` before the first command, `health` whenever the host asks and nothing
    runs, `close` at the end. `self.session`, `self.provider` and `self.progress` work from `open` on.
    """

    name: ClassVar[str] = ""
    version: ClassVar[str] = "0"
    _context: Context | None = None

    def open(self, session: Session) -> None:
        """The session begins. An exception here ends it."""

    def health(self) -> Mapping[str, Any] | None:
        """Extra facts for `common:health`; an exception means unhealthy."""
        return None

    def close(self) -> None:
        """The session ends. The grace of the policy bounds it; then the sandbox goes anyway."""

    def framework(self) -> Mapping[str, Any]:
        """``{"name", "version", "capabilities"}`` of the wrapped framework."""
        return {"name": self.name, "version": self.version, "capabilities": []}

    def stats(self) -> Mapping[str, Any]:
        """Extra numbers for `common:get_stats`."""
        return {}

    @property
    def session(self) -> Session:
        """Whose session it is. Raises `RuntimeError` before `open`."""
        return self._attached().session

    def provider(self, name: str) -> Provider:
        """Base URL and placeholder of a provider that the policy grants, or `ProviderNotGranted`."""
        providers = self._attached().providers
        if name not in providers:
            raise ProviderNotGranted(name, list(providers))
        return providers[name]

    @property
    def providers(self) -> list[str]:
        """Names of the providers that the policy grants to this session."""
        return list(self._attached().providers)

    @property
    def tools(self) -> Mapping[str, Tool]:
        """By name, the functions of the host's side that the running command may call."""
        return self._attached().tools

    @property
    def artifacts(self) -> Artifacts:
        """The tenant's bytes by digest, where the policy grants them."""
        from bridgehold_sdk.artifacts import Artifacts  # rarely needed, and every start would pay

        return Artifacts(lambda: self._attached().tools)

    def progress(self, done: int, total: int = 0, note: str = "") -> None:
        """Tell the caller how far the running command is. `total` 0: unknown. Bounded to 20 a second."""
        self._attached().progress(done, total, note)

    def emit(self, data: object) -> None:
        """Send a chunk of the running command, from any thread, as a stream's `yield` does."""
        self._attached().emit(data)

    def callers_code(self) -> CallersCode:
        """``with self.callers_code():`` around code that the caller sent.

        Whatever that raises reaches the caller as ``application`` and is never tried again: not even a
        `MemoryError`, or what is called as a provider's error is.
        """
        return CallersCode(self._attached())

    @property
    def result_bytes(self) -> int:
        """How large a result may be, encoded as JSON."""
        return self._attached().result_bytes

    @property
    def takes_parts(self) -> bool:
        """Whether a result may be `wire.Parted`: bytes beside its JSON, in no base64."""
        return self._attached().takes_parts

    @property
    def interrupted(self) -> bool:
        """Whether the running command was cancelled, or its deadline has passed."""
        return self._attached().interrupted

    def attach(self, context: Context) -> None:
        """For the runtime, and for tests of a bridge."""
        self._context = context

    def _attached(self) -> Context:
        if self._context is None:
            raise RuntimeError(
                "not attached yet: use self.session, self.provider and self.progress from open() on"
            )
        return self._context


def operations_of(kind: type) -> dict[str, Operation]:
    """The operations of a class by name, inherited ones included."""
    found: dict[str, Operation] = {}
    for attribute in sorted(dir(kind)):
        fact = getattr(getattr(kind, attribute, None), _MARK, None)
        if not isinstance(fact, Operation):
            continue
        if fact.name in found:
            raise TypeError(f"{kind.__name__}: two methods are the operation {fact.name!r}")
        found[fact.name] = Operation(
            fact.name, fact.effect, fact.resource, fact.id_field, fact.stream, attribute
        )
    return found
