from __future__ import annotations

import pytest

from bridgehold.errors import DeniedError
from bridgehold.host.inline_keys import take_inline_keys
from bridgehold.policies.compose import compose
from bridgehold.policies.grant import resolve
from bridgehold.policies.model import Grant, Machine, Needs

MACHINE = Machine(cgroup="v2", uids="range", memory_bytes=1 << 34, cpus=2)


def grant(how: str) -> Grant:
    weak = 'weakenings = ["inline_keys_pass"]\n' if how == "pass" else ""
    text = f'extends = "baseline"\ninline_keys = "{how}"\n{weak}[operations]\nallow = ["*"]\n'
    from bridgehold.policies import shipped

    policy = compose("p", lambda name: (text, "p.toml") if name == "p" else shipped.read(name))
    return resolve(Needs(operations=("x:y",)), policy, None, MACHINE, tenant="t", bridge="x", version="1")


ARGUMENTS = {"model": "m", "api_key": "value-1", "config": {"API_KEY": "value-2", "temperature": 1}}


def test_capture_takes_keys_out_at_any_depth_and_leaves_the_rest() -> None:
    taken = take_inline_keys(ARGUMENTS, grant("capture"))
    assert taken.kept == {"model": "m", "config": {"temperature": 1}}
    assert [value for _, value in taken.keys] == ["value-1", "value-2"]
    assert "value-1" not in repr(taken)


def test_refuse_names_the_argument_and_never_its_value() -> None:
    with pytest.raises(DeniedError) as caught:
        take_inline_keys(ARGUMENTS, grant("refuse"))
    assert "api_key" in caught.value.message
    assert "value-1" not in str(caught.value.info())


def test_pass_is_a_named_weakening_and_changes_nothing() -> None:
    weakened = grant("pass")
    assert "inline_keys_pass" in weakened.weakenings
    assert take_inline_keys(ARGUMENTS, weakened).kept == ARGUMENTS


def test_a_placeholder_is_no_key() -> None:
    taken = take_inline_keys({"api_key": "sk-bh-abc"}, grant("capture"))
    assert taken.keys == ()
