"""The machine's clock is set back between two starts of a host: what has ended stays ended."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import time

import msgspec
import pytest

from bridgehold import BridgeholdError, SyncClient, clock
from bridgehold.faces.cli import policy_sign
from bridgehold.keeper.approver import Approver
from bridgehold.policies import tokens
from bridgehold.policies.approved import Approved, render
from bridgehold.policies.tables import format_time
from hostile.stage import KINDS_OF_HOSTS, POLICY, Stage, make_home, start_host, stop_host

pytestmark = pytest.mark.hostile
DAY = 86_400.0


def test_a_clock_that_is_set_back_revives_neither_a_rule_nor_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host runs two days ahead; the one after it by the machine's clock, which is then two days behind."""
    with contextlib.ExitStack() as stack:
        layout = make_home(os.getuid())
        stack.callback(shutil.rmtree, layout.config.parent, ignore_errors=True)
        here = Stage(kind=KINDS_OF_HOSTS[0], layout=layout, client=None, supervisor=0)  # type: ignore[arg-type]  # before it runs
        name = here.bridge()
        (layout.policies / f"{name}.toml").write_text(POLICY.replace('["*"]', f'["{name}:report"]'))
        shown = {token: tokens.new_token(token) for token in ("over", "good")}
        ahead = time.time() + 2 * DAY
        with monkeypatch.context() as given:
            given.setenv(clock.VARIABLE, clock.Clock(ahead).told())
            first = start_host(layout)
        try:
            layout.tokens.mkdir(exist_ok=True)
            for token, until in (("over", ahead - DAY), ("good", ahead + DAY)):
                scope = tokens.Scope(tenants=("acme",))
                text = tokens.render(
                    tokens.Token(
                        name=token, digest=tokens.digest_of(shown[token]), scope=scope, expires=until
                    )
                )
                (layout.tokens / f"{token}.toml").write_text(text)
            for tenant, until in (("over", ahead - DAY), ("good", ahead + DAY)):
                rule = Approved(
                    id="p-000000000001", event="e", asked_by=tenant, approved_by="boss", approved=format_time(ahead - 2 * DAY),
                    expires=format_time(until), seen="x", grants={"operations.allow": (f"{name}:act",)},
                )  # fmt: skip
                signature = Approver(layout.secrets).sign(rule.text(name, tenant))
                rule = msgspec.structs.replace(rule, signature=base64.b64encode(signature).decode())
                (layout.policies / f"{name}@{tenant}.approved.toml").write_text(render([rule]))
        finally:
            stop_host(first)
        second = start_host(layout)
        stack.callback(stop_host, second)
        client = stack.enter_context(SyncClient.connect(layout.socket))

        def code(tenant: str) -> str:
            try:
                client.run(f"{name}:act", {"code": ""}, tenant=tenant)
            except BridgeholdError as error:
                return error.code
            return ""

        def taken(token: str) -> bool:
            try:
                with SyncClient.connect(layout.socket, token=shown[token], reconnect_s=0) as own:
                    return bool(own.request("ping"))
            except BridgeholdError:
                return False

        assert (code("over"), code("good")) == ("denied", "")
        assert (taken("over"), taken("good")) == (False, True)
        monkeypatch.setattr(policy_sign, "ask", client.request)
        monkeypatch.setattr(policy_sign, "default_layout", lambda: layout)
        policy_sign.approve(name, yes=True)  # who signs goes by the host's clock, too
        assert client.request("policy.review", {"policy": name})["state"] == "reviewed"
        assert ["clock_behind" in one["weakenings"] for one in here.events("host.started")] == [True, True]  # type: ignore[operator]  # a list
        assert "clock is" in (layout.config.parent / "host.log").read_text()
