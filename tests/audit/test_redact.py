"""Secrets are removed by value in every form, by shape and by name; previews are bounded."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgehold.audit import arguments as audit_arguments
from bridgehold.audit import key_names
from bridgehold.audit.arguments import preview_of, split_keys
from bridgehold.audit.key_names import is_key_name
from bridgehold.audit.key_shapes import mask_shapes
from bridgehold.audit.key_texts import mask_named
from bridgehold.audit.preview import preview
from bridgehold.audit.redact import Redactor
from bridgehold.audit.searching import MASK

SECRET = 'pa$$/w+rd "x"\\é-7Qz9'
PLAIN = "Zk3vQ9pLx7TnW2bR"


def forms(secret: str) -> dict[str, str]:
    raw = secret.encode()
    found = {
        "raw": secret,
        "json": json.dumps(secret),
        "json in json": json.dumps({"inner": json.dumps({"k": secret})}),
        "quoted": quote(secret, safe=""),
        "quoted lower": quote(secret, safe="").lower()
        if secret.lower() == secret
        else quote(secret, safe=""),
        "every byte quoted": "".join(f"%{byte:02x}" for byte in raw),
        "quoted twice": quote(quote(secret, safe=""), safe=""),
        "hex": raw.hex(),
        "HEX": raw.hex().upper(),
        "hex with colons": raw.hex(":"),
        "spaced hex": raw.hex(" "),
        "escaped bytes": "".join(f"\\x{byte:02x}" for byte in raw) if raw.isascii() else secret,
        "wrapped base64": "\n".join(
            base64.b64encode(b"head:" + raw + b":tail").decode()[i : i + 10] for i in range(0, 40, 10)
        ),
    }
    for shift in range(3):
        found[f"base64 +{shift}"] = base64.b64encode(b"u" * shift + raw + b":more").decode()
        found[f"base64url +{shift}"] = base64.urlsafe_b64encode(b"u" * shift + raw + b":more").decode()
    return found


@pytest.mark.parametrize("secret", [PLAIN, SECRET])
@pytest.mark.parametrize("form", sorted(forms(PLAIN)))
def test_a_value_is_removed_in_every_form(secret: str, form: str) -> None:
    written = forms(secret)[form]
    if form == "wrapped base64" and secret == SECRET:
        written = base64.b64encode(secret.encode()).decode()
    _, _, text = preview({"prompt": f"before {written} after"}, [secret], 4000)
    assert written not in text
    assert secret not in text
    assert secret not in json.loads(text)["prompt"]
    assert "redacted" in text


@settings(deadline=None, max_examples=40)
@given(
    secret=st.text(
        alphabet='abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/=-_%"\\ é',
        min_size=8,
        max_size=40,
    ),
    before=st.binary(max_size=7),
    after=st.binary(max_size=7),
    cap=st.integers(0, 400),
)
def test_no_alignment_and_no_cut_lets_a_value_through(
    secret: str, before: bytes, after: bytes, cap: int
) -> None:
    raw = secret.encode()
    values = [
        secret,
        base64.b64encode(before + raw + after).decode(),
        base64.urlsafe_b64encode(before + raw + after).decode(),
        (before + raw + after).hex(),
        quote(before + raw + after, safe=""),
    ]
    _, _, text = preview({"a": values, "deep": [{"b": values[0] * 3}]}, [secret], cap)
    assert len(text.encode()) <= max(cap, 3)
    # What the JSON text says, undone once and twice:
    shown = text.replace('\\"', '"').replace("\\\\", "\\")
    assert secret not in text
    assert secret not in shown
    assert raw.hex() not in text


def test_a_value_that_straddles_the_cut_leaves_no_part_of_itself() -> None:
    for start in range(90):
        _, _, text = preview({"p": "x" * start + PLAIN + "tail" * 5000}, [PLAIN], 64)
        assert PLAIN[:6] not in text, start


def test_masking_much_before_the_cut_pulls_no_half_value_into_sight() -> None:
    long = PLAIN * 8
    _, _, text = preview({"p": (long + " ") * 2000}, [long], 3000)
    assert PLAIN[:8] not in text
    assert len(text.encode()) <= 3000


def test_ten_megabytes_are_bounded_and_digested_in_full() -> None:
    arguments = {"data": "é" * 5_000_000}
    digest, size, text = preview(arguments, [PLAIN], 2000)
    assert size > 10_000_000
    assert digest == "sha256:" + hashlib.sha256(msgspec.json.encode(arguments, order="sorted")).hexdigest()
    assert len(text.encode()) <= 2000
    assert text.endswith("…")


def test_a_million_small_arguments_are_bounded() -> None:
    _, size, text = preview({"items": list(range(1_000_000))}, (), 500)
    assert size > 6_000_000
    assert len(text.encode()) <= 500


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert preview({"a": 1, "b": 2})[0] == preview({"b": 2, "a": 1})[0]
    assert preview({"a": 1})[0] != preview({"a": 2})[0]


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "API-Key",
        "x-api-key",
        "Authorization",
        "openai_api_key",
        "dbPassword",
        "client_secret",
        "token",
    ],
)
def test_what_stands_under_a_key_s_name_is_masked(name: str) -> None:
    assert is_key_name(name)
    _, _, text = preview({"outer": [{name: {"nested": "hunter2hunter2"}}]})
    assert "hunter2" not in text


@pytest.mark.parametrize("name", ["max_tokens", "prompt", "keyboard", "tokenizer", "author"])
def test_ordinary_names_are_not_masked(name: str) -> None:
    _, _, text = preview({name: "visible"})
    assert "visible" in text


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        ("sk", "sk-ant-api03-abcdefghijklmnop"),
        ("sk", "sk-proj-ABCDEFGHIJKLMNOP1234"),
        ("aws", "AKIAIOSFODNN7EXAMPLE"),
        ("github", "ghp_0123456789abcdefghijABCDEFGHIJ012345"),
        ("google", "AIzaSyA0123456789abcdefghijklmnopqrstuv"),
        ("jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r"),
        ("huggingface", "hf_abcdefghijklmnopqrstuvwxyz012345"),
        (
            "private_key",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1r\n-----END OPENSSH PRIVATE KEY-----",
        ),
        ("private_key", "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg"),
    ],
)
def test_well_known_shapes_are_masked(shape: str, value: str) -> None:
    masked = mask_shapes(f"use {value} now")
    assert value not in masked
    assert f"[redacted:{shape}]" in masked
    _, _, text = preview({"note": f"use {value} now"})
    assert f"[redacted:{shape}]" in text


@pytest.mark.parametrize(
    "text",
    ["risk-based-assessment-model", "s-0123456789abcdef", "sha256:" + "ab" * 32, "a task-force-of-many"],
)
def test_ordinary_text_is_no_shape(text: str) -> None:
    assert mask_shapes(text) == text


def test_lone_surrogates_and_odd_values_do_not_break_a_preview() -> None:
    digest, size, text = preview({"a\ud800": "b\udfff\n\x00", "n": float("nan"), "x": object(), "by": b"12"})
    assert digest.startswith("sha256:")
    assert size > 0
    text.encode("utf-8")
    assert "\n" not in text


def test_the_redactor_does_not_show_its_values() -> None:
    assert PLAIN not in repr(Redactor([PLAIN]))
    assert Redactor([]).text("same") == "same"
    assert Redactor(["abc"]).text("abc") == "abc"
    assert Redactor([PLAIN]).text(PLAIN) == MASK


@pytest.mark.parametrize(
    "unit",
    [
        *("key=", "x_key=", "aa=", "a.", "a-", "key.", "key is ", "key: ", "--key ", "token key1 "),
        *("key='", "key='a1", 'key="\\x', 'key=\\\\\\"', "aa='", "key=bearer    ", "key" + "a1" * 10 + "@"),
        *("eyJ", "eyJaaaaaaaaa.eyJ.", "-----BEGIN ", "sk-", "://a:a", "-u aaaa", "<key>a1b2c3d4e5f6g7h8"),
    ],
)
def test_no_text_costs_more_than_its_length(unit: str) -> None:
    """A text of 16 KiB takes about as long as 16 of 1 KiB, whatever it repeats."""
    piece = (unit * 1024)[:1024]

    def seconds(text: str, times: int) -> float:
        taken = []
        for _ in range(3):
            begun = time.process_time()
            for _ in range(times):
                mask_named(mask_shapes(text))
            taken.append(time.process_time() - begun)
        return min(taken)

    assert seconds("key .eyJ " + piece * 16, 1) < 3 * seconds("key .eyJ " + piece, 16) + 0.01


@pytest.mark.parametrize("name", ["api_key", "hf_token"])
@pytest.mark.parametrize("length", [255, 256, 257, 400, 5_000])
def test_a_long_value_is_hidden_to_its_end(name: str, length: int) -> None:
    value = ("A1b2C3d4" * (length // 8 + 1))[:length]
    for text in (f"{name}={value}", f'{{"{name}": "{value}"}}', f"--{name} {value} -v", f"a={name}={value}"):
        shown = mask_named(text)
        assert "b2C3" not in shown, text
        assert shown.replace("[redacted]", value) == text


def test_a_web_token_is_found_wherever_it_begins() -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
    for before in ("", "x", "a_eyJ", "eyJ.", "eyJabc.", "eyJaaaaaaaaaaa.", "t=", "-"):
        shown = mask_shapes(f"{before}{token} rest")
        assert "hbGci" not in shown, before
        assert "zdWIi" not in shown, before
        assert shown.endswith(" rest"), before
    assert mask_shapes("eyJhbGciOiJIUzI1NiJ9.plain") == "eyJhbGciOiJIUzI1NiJ9.plain"


NAMED = [
    "api_key",
    "ap_i.key",
    "PAT",
    "to\u212aen",
    "-u",
    "--user",
    "--token",
    "x",
    "code",
    "path",
    "sig",
    "é",
    "",
]
SAID = ["me:pw", "n" * 70, "Bearer abcdefghijklmnop1234", "https://me:pw@h", "sk-abcdefghijklmnop", PLAIN]
PIECES = st.sampled_from([*NAMED, *SAID])
ANY = st.recursive(
    PIECES | st.none() | st.booleans() | st.integers(-9, 9) | st.just(b"bytes"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PIECES, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(arguments=st.dictionaries(PIECES, ANY, max_size=3))
def test_what_is_seen_at_one_look_is_what_the_whole_search_says(arguments: dict[str, object]) -> None:
    found = split_keys(arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_arguments, "is_quiet", lambda *_: False)
        whole = split_keys(arguments)
    assert (found.kept, found.keys) == (whole.kept, whole.keys)
    assert preview_of(found, 2_000) == preview_of(whole, 2_000)


def test_every_name_of_keys_is_seen_at_one_look() -> None:
    names = {*key_names.KEY_NAMES, *key_names._KEY_ENDS, *key_names._OF_PROVIDERS, *key_names._FOR_PROVIDERS}
    for name in names | key_names._MAYBE | key_names.WORDS | {"accesskeyid", "passcode", "pwd", "passwd"}:
        assert key_names.SAYS.search(key_names.NO_LETTERS.sub("", name)) is not None, name


FAR = "Zq8vT2mX" * 12_000
LONG_KEYS = {
    "a head": f"eyJ{FAR}.eyJhbGciOi.c2ln",
    "a body": f"eyJhbGciOiJI.eyJ{FAR}.c2ln",
    "an end": f"eyJhbGciOiJI.eyJzdWIi.{FAR}",
    "a shape": f"sk-{FAR}",
    "a header": f"Authorization: Bearer {FAR}",
    "a name": f"api_key={FAR}",
    "a quoted one": f'{{"token": "{FAR}"}}',
    "a login": f"curl -u bob:{FAR} https://host",
    "a password": f"https://bob:{FAR}@host/x",
    "a user": f"https://{FAR}@host/x",
    "nearby": f"f('api_key', '{FAR}')",
}


@pytest.mark.parametrize("key", LONG_KEYS.values(), ids=LONG_KEYS)
def test_a_key_longer_than_any_bound_is_hidden_to_its_end(key: str) -> None:
    """No tail of it shows, nor a head, wherever in a text it stands."""
    for before, after in (("", ""), ("x " * 40_000, " y" * 40_000)):
        hidden = Redactor([]).text(f"{before}{key}{after}")
        assert len(hidden) < len(before) + len(after) + 120
        assert hidden.startswith(before)
        assert hidden.endswith(after)
        assert FAR[:8] not in hidden
