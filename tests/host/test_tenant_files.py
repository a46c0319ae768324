"""What the host may have its supervisor write: two kinds of files, whole or not at all, and nothing wider."""

from __future__ import annotations

import base64
import os
import threading
import time
import tracemalloc
from pathlib import Path

import msgspec
import pytest

from bridgehold.config.layout import Layout, find_layout
from bridgehold.error_info import ErrorInfo
from bridgehold.errors import BridgeholdError, PolicyError
from bridgehold.host.startup import GO, FileChange
from bridgehold.ids import digest_bytes
from bridgehold.keeper.approver import Approver
from bridgehold.policies import tokens
from bridgehold.policies.approved import Approved, render
from bridgehold.policies.reviewed import Review
from bridgehold.policies.reviewed import render as render_review
from bridgehold.policies.tables import format_time
from bridgehold.supervisor import files

CEILING = '[limits]\ncommand = "20s"\n'
SUSPENDED = CEILING + '\n[tenant]\nstate = "suspended"\n'
ONCE = files.Once(0)
REVOKED = CEILING + '\n[tenant]\nstate = "revoked"\n'


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = find_layout({"BRIDGEHOLD_HOME": str(tmp_path / "home")}, os.getuid())
    found.tenants.mkdir(parents=True)
    return found


def ask(layout: Layout, kind: str, name: str, text: str | None, was: str | None = None) -> str:
    """The error's code; empty: done."""
    folder = layout.tenants if kind == "tenants" else layout.tokens
    path = folder / f"{name}.toml"
    if was is None:
        was = path.read_text() if path.is_file() else ""
    digest = digest_bytes(was.encode()) if was else ""
    change = {"kind": kind, "name": name, "text": text, "was": digest}
    said = files.answer(layout, msgspec.json.encode(change), ONCE)
    return "" if said == GO else msgspec.json.decode(said, type=ErrorInfo).code


def token_text() -> str:
    scope = tokens.Scope(tenants=("acme",))
    return tokens.render(tokens.Token(name="app", digest=tokens.digest_of("x"), scope=scope))


def test_the_table_of_a_tenant_is_written_and_its_other_rules_stay(layout: Layout) -> None:
    path = layout.tenants / "acme.toml"
    path.write_text(CEILING)
    assert ask(layout, "tenants", "acme", SUSPENDED) == ""
    assert path.read_text() == SUSPENDED
    assert path.stat().st_mode & 0o777 == 0o644
    wider = SUSPENDED.replace("20s", "20m")
    assert ask(layout, "tenants", "acme", wider) == "policy", "a taken-over host widens no ceiling"
    assert ask(layout, "tenants", "acme", SUSPENDED.partition("\n\n")[2]) == "policy"
    assert ask(layout, "tenants", "acme", SUSPENDED + 'stat = "x"\n') == "policy"
    assert ask(layout, "tenants", "acme", None) == "usage", "who removes a file lifts what it bounds"
    assert path.read_text() == SUSPENDED
    assert ask(layout, "tenants", "acme", REVOKED) == ""
    assert ask(layout, "tenants", "acme", None) == ""
    assert path.read_text() == CEILING, "nor lifts it together with whom it bounds"
    assert ask(layout, "tenants", "acme", None) == "not_found"
    assert path.read_text() == CEILING
    path.write_text(REVOKED.removeprefix(CEILING))
    assert ask(layout, "tenants", "acme", None) == ""
    assert ask(layout, "tenants", "acme", None) == "not_found"
    assert sorted(path.name for path in layout.tenants.iterdir()) == []


@pytest.mark.parametrize(
    "ceiling",
    [
        "[bridges.python.rate]\nconcurrency = 2\n",
        "[bridges]\n# ours\n",
        'extends = "x"\n[rate]\nconcurrency = 2  # [tenant]\n',
    ],
)
def test_no_revoked_tenant_takes_a_ceiling_with_it(layout: Layout, ceiling: str) -> None:
    path = layout.tenants / "acme.toml"
    revoked = '[tenant]\nstate = "revoked"\n[tenant.limits]\nsessions = 1\n'
    for text in (f"{ceiling}\n{revoked}", *([] if "=" in ceiling[:9] else [f"{revoked}\n{ceiling}"])):
        path.write_text(text)
        assert ask(layout, "tenants", "acme", None) == ""
        assert path.read_text() == ceiling
    for entangled in ('tenant = { state = "revoked" }\n', 'tenant.state = "revoked"\n'):
        path.write_text(entangled + ceiling)
        assert ask(layout, "tenants", "acme", None) == "policy"
        assert path.read_text() == entangled + ceiling


@pytest.mark.parametrize("kind", ["tenants", "tokens"])
def test_a_text_that_takes_its_square_to_read_is_refused_at_once(layout: Layout, kind: str) -> None:
    most = 65_000
    for text in (
        ".".join("a" * (most // 2)) + " = 1",
        f"[{' . '.join('a' * (most // 4))}]",
        ".".join(['"a"'] * (most // 4)) + " = 1",
        "a" * (most // 2) + f" = [{'1,' * (most // 4)}]",
        f"[{'a' * (most // 2)}]\n" + "".join(f"{number} = 1\n" for number in range(3_500)),
        "a = " + "{a = " * (most // 5),
    ):
        tracemalloc.start()
        assert ask(layout, kind, "acme", text) == "policy"
        _, most_held = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most_held < 16 << 20
    assert not (layout.tokens / "acme.toml").exists()
    assert not (layout.tenants / "acme.toml").exists()


@pytest.mark.parametrize("name", ["../x", "..", "", "a/b", "A", "config", "a.toml/../../x", "a\0", "x" * 64])
def test_a_name_leads_nowhere_else(layout: Layout, name: str) -> None:
    layout.config_file.write_text("default_bridge = 'python'\n")
    before = sorted(layout.config.rglob("*"))
    if name != "config":
        for kind, text in (("tenants", "[tenant]\n"), ("tokens", token_text())):
            change = {"kind": kind, "name": name, "text": text, "was": ""}
            said = files.answer(layout, msgspec.json.encode(change), ONCE)
            assert msgspec.json.decode(said, type=ErrorInfo).code == "usage"
        assert sorted(layout.config.rglob("*")) == before
    for said in (b"", b"{}", b"{", b'{"kind":"policies","name":"a","text":"","was":""}', b"[" * 2_000):
        assert msgspec.json.decode(files.answer(layout, said, ONCE), type=ErrorInfo).code == "usage"
    assert layout.config_file.read_text() == "default_bridge = 'python'\n"


def test_no_file_of_a_token_makes_an_operator(layout: Layout) -> None:
    assert ask(layout, "tokens", "app", token_text()) == ""
    assert ask(layout, "tokens", "app", token_text() + "operator = true\n") == "policy"
    assert ask(layout, "tokens", "app", token_text().replace('["acme"]', '["*"]')) == "policy"
    assert ask(layout, "tokens", "app", None) == ""


def test_what_somebody_else_wrote_meanwhile_is_not_overwritten(layout: Layout) -> None:
    path = layout.tenants / "acme.toml"
    path.write_text(CEILING)
    assert ask(layout, "tenants", "acme", SUSPENDED, was="") == "busy"
    assert ask(layout, "tenants", "acme", SUSPENDED, was=CEILING + "#") == "busy"
    assert path.read_text() == CEILING
    link = layout.tenants / "linked.toml"
    elsewhere = layout.config / "elsewhere.toml"
    elsewhere.write_text(CEILING)
    link.symlink_to(elsewhere)
    assert ask(layout, "tenants", "linked", SUSPENDED) == ""
    assert elsewhere.read_text() == CEILING, "the name is replaced, never what a link leads to"


def test_whoever_reads_meanwhile_sees_one_text_or_the_other(layout: Layout) -> None:
    path = layout.tenants / "acme.toml"
    path.write_text(SUSPENDED)
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for _ in range(30):
            assert ask(layout, "tenants", "acme", REVOKED) == ""
            assert ask(layout, "tenants", "acme", SUSPENDED) == ""
    finally:
        stop.set()
        reader.join()
    assert seen <= {SUSPENDED, REVOKED}


def test_a_folder_that_others_may_write_in_is_refused_and_says_the_remedy(layout: Layout) -> None:
    layout.tenants.chmod(0o777)
    with pytest.raises((BridgeholdError, OSError)):
        files.change(
            layout, msgspec.json.encode(FileChange(kind="tenants", name="a", text="[tenant]\n", was="")), ONCE
        )
    said = files.answer(
        layout, msgspec.json.encode({"kind": "tenants", "name": "a", "text": "[tenant]\n", "was": ""}), ONCE
    )
    info = msgspec.json.decode(said, type=ErrorInfo)
    assert info.code == "config"
    assert "ReadWritePaths" in info.hint


def signed_rule(layout: Layout, number: int, at: float) -> Approved:
    rule = Approved(
        id=f"p-{number:012d}", event="e", asked_by="acme", approved_by="boss", approved=format_time(at),
        expires=format_time(at + 9_999), seen="x", grants={"operations.allow": ("demo:act",)},
    )  # fmt: skip
    signature = Approver(layout.secrets).sign(rule.text("demo", "acme"))
    return msgspec.structs.replace(rule, signature=base64.b64encode(signature).decode())


def test_what_its_owner_took_out_of_the_file_by_hand_comes_back_by_no_host(layout: Layout) -> None:
    """A host that was taken over has all that was signed, and asks while that is new."""
    now, once = time.time(), files.Once(time.time() - 100)
    layout.policies.mkdir(parents=True, exist_ok=True)
    file = layout.policies / "demo@acme.approved.toml"
    first, second, third = (signed_rule(layout, number, now - number) for number in (1, 2, 3))

    def write(*rules: Approved, by: files.Once = once) -> None:
        was = digest_bytes(file.read_bytes()) if file.exists() else ""
        change = FileChange(kind="approved", name="demo@acme", text=render(rules), was=was)
        files.change(layout, msgspec.json.encode(change), by)

    write(first)
    write(first, second)  # what stands there stays
    file.write_text(render([second]))  # by hand
    spelled = msgspec.structs.replace(
        first, signature=first.signature[:-3] + chr(ord(first.signature[-3]) + 1) + "=="
    )
    assert base64.b64decode(spelled.signature) == base64.b64decode(first.signature), (
        "another text of the same"
    )
    for again in (first, spelled):
        with pytest.raises(PolicyError, match="is not new"):
            write(again, second)
    file.unlink()
    with pytest.raises(PolicyError, match="is not new"):
        write(second)
    file.write_text(render([third]))  # and what its owner wrote alone, once it was seen there
    write(third, signed_rule(layout, 4, now))
    file.write_text(render([]))
    with pytest.raises(PolicyError, match="is not new"):
        write(third)
    after = files.Once(now + 1)  # the supervisor after this one
    with pytest.raises(PolicyError, match="is not new"):
        write(first, by=after)
    write(signed_rule(layout, 5, now + 2), by=after)
    assert "p-000000000005" in file.read_text()


def test_a_review_that_another_one_followed_comes_back_by_no_host(layout: Layout) -> None:
    now, once = time.time(), files.Once(0)
    layout.policies.mkdir(parents=True, exist_ok=True)
    file = layout.policies / "demo.review.toml"

    def signed(text: str, at: float) -> str:
        review = Review(digest=digest_bytes(text.encode()), by="boss", at=format_time(at), text=text)
        signature = Approver(layout.secrets).sign(review.signed("demo"))
        return render_review(msgspec.structs.replace(review, signature=base64.b64encode(signature).decode()))

    def write(text: str) -> None:
        was = digest_bytes(file.read_bytes()) if file.exists() else ""
        change = FileChange(kind="review", name="demo", text=text, was=was)
        files.change(layout, msgspec.json.encode(change), once)

    wide, narrow = signed("# wide\n", now - 2), signed("# narrow\n", now - 1)
    write(wide)
    write(narrow)
    with pytest.raises(PolicyError, match="is not new"):
        write(wide)
    assert file.read_text() == narrow
