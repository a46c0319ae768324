"""What is read of a gRPC worker's messages: as a writer of protocol buffers wrote it, or not at all."""

from __future__ import annotations

import socket
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold.audit.key_shapes import find_shape
from bridgehold.bridges.legacy import protobuf, rpc, rpc_start
from bridgehold.bridges.legacy.rpc_target import target_of
from bridgehold.errors import BridgeholdError, LimitError, ProtocolError, UsageError
from bridgehold.faces.legacy import loopback
from legacy.conftest import SCRIPTS

sys.path.append(str(SCRIPTS))
from rpcwire import field, pair

VALUES = st.one_of(st.integers(0, (1 << 64) - 1), st.binary(max_size=40))
EXECUTE = rpc.TO_WORKER["ExecuteTool"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, (1 << 29) - 1), VALUES), max_size=20))
def test_fields_are_read_as_they_were_written(written: list[tuple[int, int | bytes]]) -> None:
    data = b"".join(field(number, value) for number, value in written)
    found = [(n, v if isinstance(v, int) else bytes(v)) for n, v in protobuf.fields(data)]
    assert found == written


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for method in (*rpc.TO_WORKER.values(), *rpc.FROM_WORKER.values()):
        for read in (rpc.read_request, rpc.read_answer):
            try:
                read(method, data)
            except BridgeholdError:
                continue


@pytest.mark.parametrize(
    "data",
    [
        field(1, "a") + field(1, "b"),
        field(2, "a") + field(2, "a"),
        pair(3, "k", b"") + pair(3, "k", b""),
        pair(3, "k", b"") + pair(6, "k", b""),
        field(3, field(1, "k") + field(1, "j")),
        b"\x0a\x81\x00a",
        b"\x0b",
        b"\x0a\x05a",
        b"\x0a\x01\xff",
        b"\x00\x01",
        field(1, 5),
        field(9, b"") * 20_000,
    ],
)
def test_what_reads_two_ways_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        rpc.read_request(EXECUTE, data)


def test_of_a_commands_parameters_all_is_looked_at_or_said_to_be_unread() -> None:
    def found(*values: bytes, method: rpc.Method = EXECUTE) -> tuple[list[object], list[str]]:
        pairs = (pair(3, f"p{at}", field(1, "json") + field(2, one)) for at, one in enumerate(values))
        facts = rpc.read_request(method, field(1, "s") + field(2, "t") + b"".join(pairs))
        return list(facts.parameters.values()), list(facts.unread)

    text = b'"' + b"x" * (300 * 1024) + b'"'
    assert found(b"{}", text, field(1, "plain"), field(1, '["a"]'), b"") == (
        [{}, "x" * (300 * 1024), "plain", ["a"], ""],
        [],
    )
    assert found(text * 14, b"1") == ([f"{len(text) * 14} bytes", 1], ["p0"])
    many = b"[" + b"1," * 60_000 + b"1]"
    assert found(many, many)[1] == ["p1"]
    assert found(b"[" * 5_000, b"\xff", field(1, b"\xff"), field(1, 7)) == (
        ["5000 bytes", "1 bytes", "3 bytes", "2 bytes"],
        ["p0", "p1", "p2", "p3"],
    )
    assert found(text, method=rpc.FROM_WORKER["ExecuteElixirTool"])[1] == ["p0"]


def test_the_head_of_a_message_is_bounded() -> None:
    assert rpc.head(b"\0\0\0\0\x05", 5) == 5
    with pytest.raises(LimitError):
        rpc.head(b"\0\0\0\0\x06", 5)
    with pytest.raises(ProtocolError):
        rpc.head(b"\1\0\0\0\x05", 5)


def test_of_the_environment_what_configures_a_worker_passes_and_no_key() -> None:
    given = {
        "SNAKEPIT_LOG_LEVEL": "info",
        "OMP_NUM_THREADS": "2",
        "SNAKEPIT_API_TOKEN": "x",
        "OPENAI_API_KEY": "x",
        "LD_PRELOAD": "x",
        "PATH": "x",
        "SNAKEPIT_READY_FILE": "/home/x",
        "SNAKEPIT_LONG": "x" * 10_000,
    }
    assert rpc_start.passing(given, find_shape) == {"SNAKEPIT_LOG_LEVEL": "info", "OMP_NUM_THREADS": "2"}
    kept = rpc_start.kept_back(given | {"a": "x", "b\nc": "x"}, find_shape)
    assert kept == (
        "OPENAI_API_KEY",
        "SNAKEPIT_API_TOKEN",
        "LD_PRELOAD",
        "PATH",
        "SNAKEPIT_LONG",
        "SNAKEPIT_READY_FILE",
        "a",
    )
    assert len(rpc_start.bounded(f"N{n}" for n in range(10**6))) == 64
    assert rpc_start.callback_port(["--elixir-address", "127.0.0.1:50051"], {}) == 50051
    assert rpc_start.callback_port(["--elixir-address=localhost:50051"], {}) == 50051
    assert rpc_start.callback_port([], {"SNAKEPIT_GRPC_ADDRESS": "127.0.0.1:50051"}) == 50051
    for elsewhere in ("10.0.0.1:50051", "127.0.0.1:80", "127.0.0.1:99999", "[::1]:50051", ""):
        assert rpc_start.callback_port(["--elixir-address", elsewhere], {}) == 0
    assert rpc_start.is_rpc_worker("/a/grpc_server.py", ["--adapter", "x"])
    assert not rpc_start.is_rpc_worker("/a/grpc_server.py", ["--health-check"])


def test_a_connection_is_its_holders_and_nobodys_once_that_is_closed() -> None:
    """The kernel shows an end that is closed, or not yet accepted, as root's."""
    head = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    )

    def row(local: str, remote: str, state: str, uid: int, inode: int) -> str:
        return (
            f"   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 {uid:5} 0 {inode} 1 0\n"
        )

    theirs, ours = "0100007F:9C40", "0100007F:1F90"
    answers = row(ours, theirs, "01", 0, 77)
    assert loopback.dialled_by(head + answers + row(theirs, ours, "01", 1000, 78), 40_000, 8_080) == 1000
    for state, inode in (("05", 0), ("08", 0), ("01", 0), ("05", 78)):
        table = head + answers + row(theirs, ours, state, 0, inode) + "  garbage\n"
        assert loopback.dialled_by(table, 40_000, 8_080) is None
    mapped = "0000000000000000FFFF0000"
    assert loopback.dialled_by(head + row(mapped + theirs, mapped + ours, "01", 7, 1), 40_000, 8_080) == 7
    everywhere, elsewhere = "00000000:1F90", "0200007F:1F90"
    listening = (
        head + row(ours, "00000000:0000", "0A", 1000, 1) + row(everywhere, "00000000:0000", "0A", 1001, 2)
    )
    listening += row(elsewhere, "00000000:0000", "0A", 1002, 3) + answers
    assert loopback.listeners(listening, 8_080) == {1000, 1001}
    assert loopback.listeners("", 8_080) == set()


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::ffff:127.0.0.1")]
)
def test_ones_own_connection_is_known_in_both_families(family: int, address: str) -> None:
    """Clients in Java and Go dial 127.0.0.1 by a socket of both families."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(family) as client:
        client.connect((address, server.getsockname()[1]))
        taken, (_, port) = server.accept()
        with taken:
            assert loopback.is_ours(port, server.getsockname()[1])
        assert loopback.leads_to_us(server.getsockname()[1])


@pytest.mark.parametrize(
    ("said", "target"),
    [
        ({"python_module": "dspy", "function": "Predict"}, "dspy.Predict"),
        ({"call_type": "dynamic", "module_path": "os.path", "function": "join"}, "os.path.join"),
        ({"call_type": "dynamic", "module_path": "os", "python_module": "math", "function": "system"}, ""),
        ({"python_module": "math", "module": "os", "function": "system"}, ""),
        (
            {"call_type": "class", "python_module": "sympy", "class": "Symbol", "function": "__init__"},
            "sympy.Symbol",
        ),
        ({"call_type": "class", "python_module": "a", "class": "B", "class_name": "C"}, ""),
        # its worker knows no such kind, and would run a.c
        ({"call_type": "class_method", "python_module": "a", "class": "B", "function": "c"}, ""),
        (
            {"call_type": "dynamic_stream", "module_path": "itertools", "function": "repeat"},
            "itertools.repeat",
        ),
        (
            {"call_type": "method", "python_module": "dspy", "function": "forward", "instance": {}},
            "dspy.forward",
        ),
        ({"call_type": "module_attr", "python_module": "math", "attr": "pi"}, "math.pi"),
        ({"call_type": "get_attr", "python_module": "a", "attr": "b", "function": "c"}, ""),
        ({"call_type": "helper", "helper": "h", "function": "h", "library": "x"}, "helper:h"),
        ({"call_type": "stream_next", "stream_ref": {}}, "stream:next"),
        ({"call_type": "function", "python_module": "math", "class": "os", "function": "pi"}, "math.pi"),
        ({"call_type": "another", "python_module": "math", "function": "pi"}, ""),
        ({"call_type": ["function"], "python_module": "math", "function": "pi"}, ""),
        ({"python_module": "5 bytes", "function": "pi"}, ""),
        ({"python_module": "math:pi", "function": "pi"}, ""),
        ({"python_module": "ma\u0131n", "function": "pi"}, ""),
        ({"python_module": "math"}, ""),
        ({"python_module": 10**5000, "function": {"a": 1}}, ""),
        ({"python_module": ".".join("a" * 90 for _ in range(3)), "function": "f"}, ""),
        ({}, ""),
    ],
)
def test_a_call_of_snakebridges_has_one_target_or_none(said: dict[str, object], target: str) -> None:
    if target:
        assert target_of(said) == target
        return
    with pytest.raises(UsageError):
        target_of(said)
