"""What a zygote's first call may ask of the host: little, and nothing that stops its loop."""

import asyncio
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.bridges.kit import answers
from bridgehold.host.cell.gateway.values import GatewayLimits
from bridgehold.host.cell.workers import warm_gateway
from bridgehold.host.cell.workers.warm_gateway import WarmGateway, canned
from waiting import eventually

CHAT = "/v1/chat/completions"
_ASKS = "Respond with the corresponding output fields, starting with the field `[[ ## answer ## ]]`"


def body(text: str, **more: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], **more}).encode()


def text(answer: tuple[str, bytes]) -> str:
    said: str = json.loads(answer[1])["choices"][0]["message"]["content"]
    return said


def test_a_first_call_is_answered_in_the_form_it_asks_for():
    assert "[[ ## answer ## ]]" in text(canned(CHAT, body(_ASKS)))


def test_a_large_request_is_answered_unread(monkeypatch):
    monkeypatch.setattr(warm_gateway, "answer", lambda *_: pytest.fail("looked into it"))
    large = body(_ASKS + "".join(f"[[ ## f{number} ## ]]\n" for number in range(3_000)))
    assert text(canned(CHAT, large)) == "The simulated answer to: warm up"


def test_a_prompt_is_searched_once_for_all_its_fields(monkeypatch):
    searched = []
    real = answers._subject
    monkeypatch.setattr(answers, "_subject", lambda prompt: searched.append(1) or real(prompt))
    many = _ASKS + "".join(f"[[ ## f{number} ## ]]\n" for number in range(300))
    assert answers.answer([{"content": many}]).count("The simulated f") == 300
    assert len(searched) == 1


@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/embeddings", "/v1/models", "/\x80"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_lone_surrogate_is_answered(path, stream):
    asked = body(_ASKS + " \ud800", model="\udcff", stream=stream, response_format={"\ud800": "\ud800"})
    assert b"\\ud800" in asked
    assert canned(path, asked)[1]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    messages=json_values, form=json_values, model=json_values, path=st.sampled_from([CHAT, "/responses", "/"])
)
def test_anything_at_all_is_answered(messages, form, model, path):
    asked = {
        "messages": [{"content": messages}, {"content": [{"text": messages}]}],
        "model": model,
        "response_format": form,
    }
    assert canned(path, json.dumps(asked).encode())[1]
    assert canned(path, json.dumps(messages).encode())[1]


@pytest.mark.parametrize("asked", [b"", b"[" * 60_000, b"9" * 60_000, b"\xff", b"nul", b'{"messages":7}'])
def test_what_is_no_request_is_answered_too(asked):
    assert canned(CHAT, asked)[1]


async def _exchange(sent: bytes) -> bytes:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        gateway = WarmGateway(listener.dup())
        try:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            writer.write_eof()
            return await asyncio.wait_for(reader.read(1 << 20), 30)
        except ConnectionResetError:
            return b"reset"
        finally:
            await gateway.close()


def _request(content: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: provider\r\nContent-Length: %d\r\n\r\n%s" % (
        CHAT.encode(),
        len(content),
        content,
    )


def test_over_a_socket_a_small_request_is_answered_and_a_larger_one_than_a_first_call_is_not():
    assert asyncio.run(_exchange(_request(body(_ASKS)))).startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 200" not in asyncio.run(_exchange(_request(body("a" * 70_000))))


def test_connections_and_reads_without_end_are_paced(monkeypatch):
    """A first call that sends a byte at a time, or connects again and again, waits instead of the host."""
    taken = []

    class Counting(warm_gateway.TokenBucket):
        def take(self, tokens, now):
            taken.append(tokens)
            return super().take(tokens, now)

    monkeypatch.setattr(warm_gateway, "TokenBucket", Counting)
    monkeypatch.setattr(warm_gateway, "_LIMITS", GatewayLimits(head_ms=60_000))
    trickled = _request(body(_ASKS))

    async def act():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            gateway = WarmGateway(listener.dup())
            try:
                for number in range(20):
                    _, writer = await asyncio.open_connection(*listener.getsockname())
                    writer.close()
                    await eventually(lambda number=number: len(taken) > number)
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                before = len(taken)
                for at in range(0, 30, 3):
                    writer.write(trickled[at : at + 3])
                    await eventually(lambda at=at: len(taken) > before + at // 3)
                writer.write(trickled[30:])
                assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 200")
                writer.close()
            finally:
                await gateway.close()

    asyncio.run(act())
    assert len(taken) >= 30
