"""One line per event, whatever is in it; what can't be written exactly is refused, never dropped."""

from __future__ import annotations

import json

import pytest
from audit_support import intent
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.audit import chain
from bridgehold.audit.events import CommandRefused, Event, GrantResolved, HostStopped, event_types, kind_of
from bridgehold.audit.formatter import EventFormatter
from bridgehold.errors import AuditError

FORMATTER = EventFormatter()


def line(event: Event) -> bytes:
    record = FORMATTER.line(
        event,
        instance="i-0123456789ab",
        seq=7,
        time="2026-11-20T09:30:00.123Z",
        mono_ns=123,
        boot="00000000-0000-0000-0000-000000000000",
        prev=chain.GENESIS,
    )
    return chain.seal(chain.hash_prefix("i-0123456789ab"), chain.GENESIS, record)[0]


def refused(name: str) -> CommandRefused:
    return CommandRefused(
        bridge=name, operation=name, rule="default-deny", reason=name, source=name, tenant=name
    )


@pytest.mark.parametrize(
    "name",
    [
        '\n{"v":1,"kind":"host.stopped"}',
        "\r",
        "\x00",
        "\x7f",
        "\x1b[2J",
        "\u2028\u2029",
        "\ue000",
        "😀é",
        '","kind":"forged.kind"',
    ],
)
def test_a_hostile_name_stays_in_its_line(name: str) -> None:
    stored = line(refused(name))
    assert stored.count(b"\n") == 1
    assert stored.isascii()
    assert not any(byte < 32 or byte == 127 for byte in stored[:-1])
    assert json.loads(stored)["bridge"] == name
    facts = chain.read_line(stored[:-1])
    assert facts is not None
    assert facts.kind == "command.refused"


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_text_comes_back_from_one_ascii_line(name: str) -> None:
    stored = line(refused(name))
    assert stored.count(b"\n") == 1
    assert stored.isascii()
    if "sk-" not in name and "eyJ" not in name:
        assert json.loads(stored)["operation"] == name


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        float("nan"),
        2**53,
        -(2**53),
        {"a": 2**53},
        [1, [0.5]],
        {"bad\nkey": 1},
        {1: 2},
        b"bytes",
        object(),
        {1, 2},
    ],
)
def test_what_has_no_exact_form_is_refused(value: object) -> None:
    with pytest.raises(AuditError):
        line(GrantResolved(digest="d", grant={"value": value}))


def test_a_lone_surrogate_that_got_here_is_refused_not_dropped() -> None:
    with pytest.raises(AuditError):
        line(HostStopped(reason="\ud800"))


def test_depth_is_bounded() -> None:
    value: object = 1
    for _ in range(10_000):
        value = [value]
    with pytest.raises(AuditError):
        line(GrantResolved(digest="d", grant={"value": value}))


def test_the_largest_integers_pass() -> None:
    stored = json.loads(line(GrantResolved(digest="d", grant={"a": 2**53 - 1, "b": -(2**53) + 1})))
    assert stored["grant"] == {"a": 2**53 - 1, "b": -(2**53) + 1}


def test_fields_named_like_a_log_record_s_own_are_kept() -> None:
    from bridgehold.audit.events import SecretChanged

    stored = json.loads(line(SecretChanged(name="openai", action="set", store="file")))
    assert (stored["name"], stored["action"], stored["kind"]) == ("openai", "set", "secret.changed")
    assert set(stored) == {
        *("v", "instance", "seq", "time", "mono_ns", "boot", "kind", "prev", "hash"),
        *("tenant", "principal", "session", "command", "name", "action", "store", "version"),
    }


def test_a_key_that_came_in_by_any_field_is_masked() -> None:
    stored = line(intent(operation="x", rule="Bearer sk-proj-0123456789abcdefABCDEF"))
    assert b"0123456789abcdefABCDEF" not in stored
    assert b"[redacted:" in stored


def test_every_kind_is_named_once() -> None:
    kinds = [kind_of(kind) for kind in event_types()]
    assert len(kinds) == len(set(kinds)) > 20
    assert all(len(kind.split(".")) == 2 for kind in kinds)
