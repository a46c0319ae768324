from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.errors import DependencyError
from bridgehold.sandbox.envs.lock import active_pins, parse_lock, read_lock

H1, H2 = "a" * 64, "b" * 64
GOOD = f"six==1.17.0 \\\n    --hash=sha256:{H2} \\\n    --hash=sha256:{H1}\n"


def test_a_pin_with_marker_extras_comments_and_continuations():
    lock = parse_lock(
        f"# made by hand\n\nHttpX[http2]==0.28.1 ; python_version >= '3.11' \\\n"
        f"  --hash=sha256:{H1}\n    # via x\n{GOOD}",
        "r.lock",
    )
    assert [(p.name, p.version, p.line) for p in lock.pins] == [("httpx", "0.28.1", 3), ("six", "1.17.0", 6)]
    assert lock.pins[1].hashes == (H1, H2)


def test_an_empty_lock_has_no_pins_and_a_digest():
    assert parse_lock("# nothing\n", "r.lock").pins == ()
    assert parse_lock("", "a").digest == read_lock(None).digest


def test_the_digest_is_of_the_content_not_of_the_layout():
    other = f"# note\nsix==1.17.0 --hash=sha256:{H1} --hash=sha256:{H2}\n"
    assert parse_lock(GOOD, "a").digest == parse_lock(other, "b").digest
    assert parse_lock(GOOD, "a").digest != parse_lock(GOOD.replace("1.17.0", "1.17.1"), "a").digest
    assert parse_lock(GOOD, "a").digest != parse_lock(GOOD.replace(H1, "c" * 64), "a").digest


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--index-url https://evil.example/simple", "--index-url"),
        ("--extra-index-url=https://evil.example/simple", "--extra-index-url"),
        ("-i https://evil.example/simple", "-i"),
        ("-e ./local", "-e"),
        ("-r other.txt", "-r"),
        ("--find-links /tmp", "--find-links"),
        ("--no-binary :all:", "--no-binary"),
        ("six==1.17.0", "no hash"),
        ("six==1.17.0 ; python_version > '3'", "no hash"),
        (f"six @ https://evil.example/six.whl --hash=sha256:{H1}", "path or URL"),
        (f"./six-1.17.0-py3-none-any.whl --hash=sha256:{H1}", "path or URL"),
        (f"/tmp/six.whl --hash=sha256:{H1}", "path or URL"),
        ("git+https://evil.example/six.git", "path or URL"),
        (f"six>=1.17 --hash=sha256:{H1}", "exact version"),
        (f"six==1.* --hash=sha256:{H1}", "exact version"),
        (f"six===1.17.0 --hash=sha256:{H1}", "exact version"),
        (f"six --hash=sha256:{H1}", "exact version"),
        (f"six==1.17.0 --hash=md5:{'a' * 32}", "is not"),
        (f"six==1.17.0 --hash=sha256:{H1[:-1]}", "is not"),
        (f"six==1.17.0 --hash=sha256:{H1} --index-url https://evil.example/", "path or URL|is not"),
        (f"six==1.17.0 --config-settings=x=y --hash=sha256:{H1}", "is not"),
        (f"six==1.17.0 ; nonsense > 3 --hash=sha256:{H1}", "marker"),
        (f"six==one --hash=sha256:{H1}", "version"),
        (f"six=={'1' * 5_000} --hash=sha256:{H1}", "version"),
        (f"six==1 ; {'(' * 5_000}os_name == 'x'{')' * 5_000} --hash=sha256:{H1}", "marker"),
    ],
)
def test_everything_else_is_refused_with_file_line_and_remedy(line, says):
    with pytest.raises(DependencyError, match=says) as caught:
        parse_lock(f"{GOOD}# a comment\n{line}\n", "requirements.lock")
    assert caught.value.where == "requirements.lock:5"
    assert "bridge lock" in caught.value.hint


def test_an_option_hidden_behind_a_continuation_is_refused():
    with pytest.raises(DependencyError) as caught:
        parse_lock(f"six==1.17.0 \\\n  --hash=sha256:{H1} \\\n  --index-url=https://evil.example/\n", "r")
    assert caught.value.where == "r:1"


def test_markers_choose_for_the_interpreter(interpreter):
    text = (
        f"a==1 ; sys_platform == 'win32' --hash=sha256:{H1}\n"
        f"b==1 ; sys_platform == 'linux' --hash=sha256:{H1}\n"
        f"c==1 ; python_full_version < '3' --hash=sha256:{H1}\n"
        f"c==2 ; python_full_version >= '3' --hash=sha256:{H2}\n"
    )
    pins = active_pins(parse_lock(text, "r"), interpreter)
    assert [(p.name, p.version) for p in pins] == [("b", "1"), ("c", "2")]


@pytest.mark.parametrize("marker", ["os_name ~= 'x'", "extras == 'x'", f"python_version == '{'1' * 5_000}'"])
def test_a_marker_without_an_answer_is_a_typed_refusal(interpreter, marker):
    with pytest.raises(DependencyError, match="can't be answered") as caught:
        active_pins(parse_lock(f"a==1 ; {marker} --hash=sha256:{H1}\n", "r"), interpreter)
    assert caught.value.where == "r:1"


def test_two_active_pins_of_one_name_are_refused_with_both_lines(interpreter):
    text = f"c==1 --hash=sha256:{H1}\nC==2 --hash=sha256:{H2}\n"
    with pytest.raises(DependencyError, match="lines 1 and 2"):
        active_pins(parse_lock(text, "r"), interpreter)


def test_a_lock_that_is_no_text_is_a_typed_error(tmp_path):
    (tmp_path / "r.lock").write_bytes(b"\xff\xfe\0")
    with pytest.raises(DependencyError):
        read_lock(tmp_path / "r.lock")
    with pytest.raises(DependencyError):
        read_lock(tmp_path / "absent.lock")


@given(st.text(max_size=200))
def test_any_text_is_pins_or_a_typed_refusal(text):
    pins, where = (), "r:"
    try:
        pins = parse_lock(text, "r").pins
    except DependencyError as error:
        where = error.where
    assert where.startswith("r:")
    assert all(pin.hashes for pin in pins)


@pytest.mark.parametrize(
    "bridge", ["dspy", "custom", "enhanced", "langchain", "python", "pandas", "transformers"]
)
def test_the_shipped_locks_parse_and_name_no_index(bridge, interpreter):
    from importlib.resources import files

    text = files("bridgehold.bridges").joinpath(f"shipped/{bridge}/requirements.lock").read_text()
    pins = active_pins(parse_lock(text, bridge), interpreter)
    names = {pin.name for pin in pins}
    wanted = {
        "dspy": {"dspy-ai", "litellm"},
        "custom": {"scikit-learn", "numpy"},
        "enhanced": {"dspy-ai", "litellm"},
        "langchain": {"langchain", "langgraph", "langchain-openai"},
        "python": set(),
        "pandas": {"pandas", "numpy"},
        "transformers": {"transformers", "torch", "tokenizers", "safetensors"},
    }
    assert wanted[bridge] <= names
    assert "://" not in text
    assert all(pin.hashes for pin in pins)
