"""What keeper and launcher are told anew by a reload: tried on hosts with and without cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridgehold import BridgeholdError, SyncClient
from bridgehold.bridges.kit.provider import Provider, fingerprint
from bridgehold.client.sync import SyncSession
from bridgehold.errors import NotFoundError
from bridgehold.keeper.admin import SecretAdmin
from hostile.served import running
from hostile.stage import MANIFEST, POLICY, Stage

KEY = "sk-fresh-0123456789abcdef"
NEEDS = """
[[needs.endpoints]]
provider = "fresh"
methods = ["POST"]
paths = ["/chat/completions"]
[[needs.secrets]]
name = "fresh"
provider = "fresh"
[operations.act]"""
GRANTED = """
[network.endpoints.fresh]
methods = ["POST"]
paths = ["/chat/completions"]
[secrets.fresh]
provider = "fresh"
"""
ASK = """
import urllib.error, urllib.request as u
import sys
body = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
heads = {"Content-Type": "application/json", "Authorization": f"Bearer {self.provider('fresh').placeholder}"}
ask = u.Request(self.provider("fresh").base_url + "/chat/completions", body, heads)
try:
    with u.urlopen(ask) as answer: result.update(status=answer.status, said=answer.read().decode())
except urllib.error.HTTPError as error: result.update(status=error.code, said=error.read().decode())
"""


def asking_bridge(host: Stage) -> str:
    """A bridge that may ask ``fresh``, which there is not yet."""
    name = host.bridge(manifest=MANIFEST.replace("[operations.act]", NEEDS))
    source = host.layout.bridges / name / "hostile.py"
    source.write_text(source.read_text().replace('{"result": {}}', '{"result": {}, "self": self}'))
    policy = host.layout.policies / f"{name}.toml"
    start = f'[sandbox]\nstart = "{host.start}"\n'
    policy.write_text('weakenings = ["private_network"]\n' + POLICY + GRANTED + start)
    return name


def ask(session: SyncSession) -> tuple[int, str]:
    found = session.run("act", {"code": ASK})
    return int(found["status"]), str(found["said"])


def reload(host: Stage, text: str) -> list[str]:
    """What is taken over of config.toml once it says `text`."""
    host.layout.config_file.write_text(text)
    found = host.client.request("reload", {})
    assert not [key for key in found["waiting"] if not key.startswith("host.")]
    return list(found["applied"])


def a_provider_comes_moves_and_goes(host: Stage, tenant: str) -> None:
    """Its key goes where the file says at that moment, in sessions that are open too."""
    before = host.layout.config_file.read_text()
    name = asking_bridge(host)
    SecretAdmin.open_file(host.layout.secrets).set(tenant, "fresh", KEY.encode())
    with (
        running(Provider.open(key=KEY)) as first,
        running(Provider.open(key=KEY)) as second,
        host.session(name, tenant) as session,
    ):
        status, said = ask(session)
        assert status == 403
        assert "the host knows no provider 'fresh'" in said
        assert "bridgehold reload" in said
        for provider in (first, second):
            section = f'[providers.fresh]\nbase_url = "{provider.base_url}"\nprivate = true\n'
            assert "providers.fresh.base_url" in reload(host, f"{before}{section}")
            status, said = ask(session)
            assert status == 200, said
            assert provider.log[-1].key_fingerprint == fingerprint(KEY)
        assert len(first.log) == 1
        with pytest.raises(BridgeholdError) as caught:
            reload(host, before + '[providers.fresh]\nbase_url = "http://fresh.example.org"\n')
        assert caught.value.code == "config"
        assert ask(session)[0] == 200, "a file with a fault changes nothing"
        assert "providers.fresh" in " ".join(reload(host, before))
        assert ask(session)[0] == 403
        assert len(second.log) == 2


def a_folder_of_scripts_comes_and_goes(host: Stage, tenant: str, folder: Path) -> None:
    """Its scripts run without a restart, and no more once it is named no longer."""
    before = host.layout.config_file.read_text()
    name = f"scripts-{tenant}"
    (host.layout.bridges / name).mkdir()
    (host.layout.bridges / name / "bridge.toml").write_text(
        f'name = "{name}"\nversion = "1.0.0"\nsummary = "Scripts"\nforeign = "auto"\n'
    )
    (host.layout.policies / f"{name}.toml").write_text(POLICY + f'[sandbox]\nstart = "{host.start}"\n')
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    (folder / "hello.py").write_text("import beside; raise SystemExit(beside.STATUS)\n")
    second = folder.parent / "second"
    second.mkdir(exist_ok=True)
    second.chmod(0o755)
    (second / "beside.py").write_text("STATUS = 7\n")

    def run() -> int:
        asked = {
            "tenant": tenant,
            "bridge": name,
            "kind": "module",
            "text": "hello",
            "path": [str(folder), str(second)],
        }
        return int(host.client.request("foreign.open", asked)["exit"])

    with pytest.raises(BridgeholdError, match="whose scripts are nowhere") as caught:
        run()
    assert "bridgehold reload" in caught.value.hint
    named = f'{before}[bridges.{name}]\nscripts = ["{folder}", "{second}"]\n'
    assert f"bridges.{name}.scripts" in reload(host, named)
    assert run() == 7
    reload(host, before)
    with pytest.raises(BridgeholdError, match="whose scripts are nowhere"):
        run()


def a_slip_of_a_program_opens_nothing(host: Stage) -> None:
    """Of an operator's: any other name is a tenant without a file."""
    (host.layout.tenants / "slipping.toml").write_text("[tenant]\n")
    with SyncClient.connect(host.layout.socket) as client:
        for wrong in ("sliping", "slippping", "slippign"):
            with pytest.raises(NotFoundError, match=r"there is no tenant .* \(nearest: 'slipping'\)"):
                client.session("python", tenant=wrong).__enter__()
        for fine in ("slipping", "slipping2", "unheard-of"):
            with client.session("python", tenant=fine) as session:
                assert session.run("execute", {"code": "6 * 7"})["value"] == 42
        assert not {"sliping", "slippping", "slippign"} & {one.tenant for one in client.sessions()}
