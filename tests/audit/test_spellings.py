"""Finding a value in every plain spelling: whole, over any border, cut, and nothing else."""

from __future__ import annotations

import base64
import functools
import random
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.audit.encodings import MARK, Encodings, beginnings, mask
from bridgehold.audit.key_shapes import mask_shapes
from bridgehold.audit.redact import Redactor
from bridgehold.keeper.scrub import Scrubber
from costs import as_in_a_host  # noqa: F401 - a fixture of all tests here
from spelt import spellings

KEYS = ("sk-real/with+signs%41-0123456789", "sk-proj-" + "aB3dE5gH7jK9_" * 12, "Zk3vQ9pL")


@functools.cache
def spelt_of(key: str) -> Encodings:
    return Encodings(key.encode())


CORPUS = [(key, name) for key in KEYS for name in spellings(key)]


@pytest.mark.parametrize(("key", "name"), CORPUS, ids=[f"{len(key)}-{name}" for key, name in CORPUS])
def test_a_value_is_masked_whole_over_every_border_and_nothing_else(key: str, name: str) -> None:  # ABUSE 61
    written = spellings(key)[name].encode()
    text = b'{"said": "' + written + b'", "more": [1, 22]}'
    for step in (1, 2, 3, 7, 64, len(text) - 21, len(text)):
        scrubber = Scrubber(spelt_of(key))
        found = b"".join(scrubber.feed(text[at : at + step]) for at in range(0, len(text), step))
        found += scrubber.finish()
        assert len(found) == len(text), "lengths stay true"
        assert scrubber.count >= 1, step
        assert found.startswith(b'{"said": "')
        assert found.endswith(b'", "more": [1, 22]}')
        # What base64 adds before and after, a bracket, an 0x: nothing of the value itself.
        assert sum(byte not in b"*" for byte in found[10:-19]) <= 12, found


CUT_KEYS = (KEYS[0], "Zq7=K2m\\nv9&p4%nR8sYd3Fh6", "päß-wörd→42🔑Zq7xK2m")
"""Signs that begin escapes, and characters that several bytes or escapes spell."""


@pytest.mark.parametrize("key", CUT_KEYS, ids=["plain", "escapes", "beyond ASCII"])
def test_a_value_that_is_cut_at_any_byte_is_masked_as_it_is_uncut(key: str) -> None:  # ABUSE 61
    """By two chunks of a stream, and by the border of two parts of a text."""
    spelt = Encodings(key.encode())
    redactor, part = Redactor([spelt]), 512
    shown = []
    for name, spelling in spellings(key).items():
        text = b"said: " + spelling.encode() + b" and more"
        whole = Scrubber(spelt)
        uncut = whole.feed(text) + whole.finish()
        for at in range(1, len(text)):
            scrubber = Scrubber(spelt)
            if scrubber.feed(text[:at]) + scrubber.feed(text[at:]) + scrubber.finish() != uncut:
                shown.append((name, text[:at]))
        masked = redactor.text(f". {spelling} and more")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bridgehold.audit.encodings._PART", part)
            for at in range(len(spelling.encode())):
                found = redactor.text("." * (part - 1 - at) + f". {spelling} and more")
                if found.lstrip(".") != masked[1:]:
                    shown.append((name, spelling.encode()[:at]))
    assert shown == []


@pytest.mark.parametrize("key", KEYS[:2])
def test_a_cut_echo_is_masked_and_a_shared_prefix_is_not(key: str) -> None:
    spelt = spelt_of(key)
    half = len(key) // 2
    for part in (key[:-1], key[: half + 1], key[half:], key[:20] + "…"):
        spans, _ = spelt.find(f"before {part} after".encode())
        assert mask(f"before {part} after".encode(), spans).startswith(b"before ****"), part
    assert spelt.find(f"before {key[:8]} after".encode()) == ([], len(f"before {key[:8]} after"))
    # Where the text itself was cut, every beginning of the value may be it.
    for size in range(MARK, len(key)):
        assert Redactor([spelt]).text(f"x {key[:size]}") == "x [redacted]"
        assert Redactor([spelt]).text(f'{{"x": "{key[:size]}…"}}') == '{"x": "[redacted]…"}'


@given(st.binary(max_size=300), st.sampled_from(KEYS), st.lists(st.integers(1, 40), max_size=8))
def test_what_holds_no_value_passes_unchanged_and_the_end_is_not_kept(
    data: bytes, key: str, steps: list[int]
) -> None:
    scrubber = Scrubber(spelt_of(key))
    at, found = 0, b""
    for step in [*steps, 300]:
        found += scrubber.feed(data[at : at + step])
        at += step
    assert found + scrubber.finish() == data


def test_streams_wait_for_nothing_that_is_no_beginning() -> None:
    scrubber = Scrubber(spelt_of(KEYS[0]))
    event = b'data: {"choices":[{"delta":{"content":"hello \\n 12%"}}]}\n\n'
    assert scrubber.feed(event) == event
    assert "sk-real" not in repr(scrubber) + repr(spelt_of(KEYS[0]))


@pytest.mark.parametrize("hostile", [b"\\", b"%25", b"sk-proj-aB3", b"\0", b"a ", b"115, ", b"&#115;"])
def test_no_answer_takes_long_to_look_through(hostile: bytes) -> None:
    text = hostile * (200_000 // len(hostile))
    began = time.process_time()
    for at in range(0, len(text), 32_768):
        spelt_of(KEYS[1]).find(text[at : at + 32_768], last=False)
    assert time.process_time() - began < 2


FRAGMENTS = [text for key in KEYS for text in spellings(key).values()]
WORDS = [
    "api_key=",
    '"token": "',
    "--password ",
    "key is ",
    "://u:p@h/",
    "-u a:bcd",
    "Bearer ",
    "sk-" + "a" * 14,
]
WORDS += ["…", "\\", "%", '"', " ", "\n", "=", "key", "a1" * 20, "ghp_" + "a1" * 12, "eyJh.eyJzdWIi.abc", "é"]
WORDS += ["-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----", "eyJ", ".", "sk-", "Bearer "]
PIECES = st.one_of(
    st.tuples(st.sampled_from(FRAGMENTS), st.integers(0, 40), st.integers(1, 200)).map(
        lambda c: c[0][c[1] : c[2]]
    ),
    st.tuples(st.sampled_from(WORDS), st.integers(1, 3)).map(lambda c: c[0] * c[1]),
)


@given(st.lists(PIECES, max_size=30), st.sampled_from(KEYS), st.integers(16, 300))
def test_a_text_that_is_looked_through_in_parts_is_masked_as_in_one(
    pieces: list[str], key: str, part: int
) -> None:
    text, redactor = "".join(pieces), Redactor([spelt_of(key)])
    with pytest.MonkeyPatch.context() as patch:
        found = []
        for size in (10**9, part):
            patch.setattr("bridgehold.audit.encodings._PART", size)
            patch.setattr("bridgehold.audit.searching.PART", size)
            patch.setattr("bridgehold.audit.key_shapes.PART", size)
            found.append(redactor.text(text))
    assert found[0] == found[1]


HOSTILE = [
    "\\",
    "key=",
    'key="',
    "token token ",
    "…",
    KEYS[0][:15],
    "key ://",
    "eyJ.eyJ",
    "key " + "a1" * 9_000,
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_step_of_a_long_text_takes_long(hostile: str) -> None:
    """What others wait for: one search over all of it would take up to half a second."""
    steps = Redactor([spelt_of(KEYS[0])]).steps(hostile * (100_000 // len(hostile)))
    taken = [time.thread_time(), *(time.thread_time() for _ in steps)]
    waits = sorted(later - earlier for earlier, later in pairwise(taken))
    assert waits[-1] < 0.1
    assert waits[len(waits) * 9 // 10] < 0.01
    assert len(waits) < 2_000, "each stop costs as much as the look at a name"


LONG = {
    "a run": "sk-" + "a" * 90_000,
    "a token of long parts": "eyJ" + "a" * 20_000 + ".eyJ" + "b" * 20_000 + "." + "c" * 40_000,
    "a private key": "-----BEGIN RSA PRIVATE KEY-----" + "a\n" * 40_000 + "-----END RSA PRIVATE KEY-----",
    "one that has no end": "-----BEGIN PRIVATE KEY-----" + "a-\n" * 30_000,
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_shape_is_masked_whole_wherever_it_stands(name: str) -> None:
    for before in (0, 8_170, 8_191, 8_192, 30_000):
        for after in (" and", " and more of it, " * 4_000):
            text = "." * before + " " + LONG[name] + after
            assert Redactor([]).text(text) == mask_shapes(text), (before, len(after))
            assert mask_shapes(text).startswith("." * before + " [redacted:")


@pytest.mark.parametrize("hostile", ["a." * 1_500_000 + ".eyJ", "hf_" * 1_000_000])
def test_no_step_looks_through_all_of_a_long_text_for_a_shape(hostile: str) -> None:
    taken = [time.thread_time(), *(time.thread_time() for _ in Redactor([]).steps(hostile))]
    assert max(later - earlier for earlier, later in pairwise(taken)) < 0.03


@pytest.mark.parametrize("size", [512, 513, 2_000, 8_192])
def test_long_values_are_masked_whole_and_made_in_bounded_time(size: int) -> None:
    key = base64.urlsafe_b64encode(random.Random(size).randbytes(size)).decode()[:size]
    began = time.process_time()
    spelt = Encodings(key.encode())
    assert time.process_time() - began < 5
    text = f'{{"a": "{key}", "b": 1}}'.encode()
    for step in (1_000, len(text)):
        scrubber = Scrubber(spelt)
        found = b"".join(scrubber.feed(text[at : at + step]) for at in range(0, len(text), step))
        assert found + scrubber.finish() == b'{"a": "' + b"*" * size + b'", "b": 1}'


@pytest.mark.parametrize("key", KEYS[:2])
def test_a_beginning_is_seen_in_every_spelling(key: str) -> None:
    pattern = beginnings([b"AIza", key[:MARK].encode()])
    assert pattern is not None
    assert [name for name, text in spellings(key).items() if not pattern.search(text.encode())] == []
    assert pattern.search(b"an ordinary text of 1,234 words, 50% of them short") is None
    assert beginnings([]) is None
