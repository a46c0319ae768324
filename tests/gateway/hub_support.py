"""A hub on loopback behind a real keeper and a real gateway; bytes end up in a real artifact store."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway_support import Recorder, Stand, keeper_inside, make_downloads, make_grant

from bridgehold.bridges.kit.hub import Hub
from bridgehold.bridges.kit.provider import Provider
from bridgehold.config.providers import ProviderEntry
from bridgehold.host.cell.gateway.values import ProviderFacts
from bridgehold.keeper.resolve import Lookup, system_lookup
from bridgehold.keeper.values import KeeperConfig, StoreConfig
from bridgehold.policies.model import Endpoint, SecretGrant, Source

TOKENS = {"acme": "hf_real_acme_0123456789abcdefghij", "umbra": "hf_real_umbra_zyxwvutsrqponmlkji"}
PLACEHOLDER = "sk-bh-acme-hub-2222222222222222"
REPO = "acme/tiny"
CONFIG = {"model_type": "gpt2", "n_embd": 4}


def weights(rows: int = 64) -> bytes:
    """A safetensors file: its header's length, the header, the numbers."""
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [rows, 256], "data_offsets": [0, rows * 1024]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + b"".join(struct.pack("<f", n) * 256 for n in range(rows))


def make_repos(folder: Path) -> Path:
    for repo in (REPO, "acme/other", "umbra/secret"):
        place = folder / repo
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(CONFIG))
        (place / "model.safetensors").write_bytes(weights() + repo.encode())
        (place / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n")
        (place / "modeling_tiny.py").write_text("import os")
    return folder


def hub_grant(tenant: str = "acme", secret: bool = True, **changes: Any) -> Any:
    endpoint = Endpoint(provider="hub", **{"repos": ("/acme/tiny@*",), **changes})
    secrets = (SecretGrant(name="hub", provider="hub"),) if secret else ()
    sources = {"network.endpoints": Source("transformers.toml", 9)}
    return make_grant(tenant, endpoints=(endpoint,), secrets=secrets, sources=sources)


class HubStand(Stand):
    hub: Hub
    folder: Path

    async def get(self, path: str, **more: Any) -> Any:
        more.setdefault("key", PLACEHOLDER)
        method = more.pop("method", "GET")
        return await self.ask(f"/hub{path}", None, method=method, **more)

    async def file(self, name: str, repo: str = REPO, revision: str = "main", **more: Any) -> Any:
        return await self.get(f"/{repo}/resolve/{revision}/{name}", **more)

    def bytes_of(self, name: str, repo: str = REPO) -> bytes:
        return (self.folder / repo / name).read_bytes()

    def digest(self, name: str, repo: str = REPO) -> str:
        return hashlib.sha256(self.bytes_of(name, repo)).hexdigest()

    @property
    def kept(self) -> dict[str, int]:
        """By digest, what the tenant keeps; uploads that were given up would be here too."""
        folder = self.downloads.store._folder / "acme"
        found = [path for path in folder.glob("*") if path.is_file() and path.suffix != ".json"]
        return {path.name: path.stat().st_size for path in found}


def on_hub(
    tmp_path: Path,
    test: Callable[[HubStand], Awaitable[None]],
    grant: Any = None,
    *,
    lookup: Lookup = system_lookup,
    needs_token: bool = True,
    quota: int = 1 << 30,
    placeholders: dict[str, str] | None = None,
    **entry: Any,
) -> None:
    """Run `test` on a stand with one open gateway; afterwards no token may stand in any event."""

    async def run() -> None:
        folder = make_repos(tmp_path / "repos")
        async with (
            Hub.open(folder, token=TOKENS["acme"], private=needs_token) as hub,
            Provider.open() as provider,
        ):
            secrets = tmp_path / "credentials"
            secrets.mkdir()
            for tenant, token in TOKENS.items():
                (secrets / f"{tenant}.hub").write_text(token)
            store = StoreConfig(folder=str(secrets), store="systemd", credentials_directory=str(secrets))
            given = {"base_url": hub.base_url, "private": True, "hosts": (hub.files_host,), **entry}
            made = ProviderEntry(name="hub", shape="hub", **given)
            parts = urlsplit(made.base_url)
            facts = ProviderFacts(
                name="hub",
                host=made.host,
                port=parts.port or 443,
                shape="hub",
                keyed=made.keyed,
            )
            audit = Recorder()
            async with keeper_inside(KeeperConfig(secrets=store, providers=(made,)), lookup) as keeper:
                stand = HubStand(
                    provider=provider,
                    keeper=keeper,
                    providers={"hub": facts},
                    downloads=make_downloads(tmp_path / "artifacts", audit, quota),
                    audit=audit,
                )
                stand.hub, stand.folder = hub, folder
                try:
                    own = {"hub": PLACEHOLDER} if placeholders is None else placeholders
                    await stand.open(grant or hub_grant(), placeholders=own)
                    await test(stand)
                finally:
                    for gateway in stand.gateways:
                        await gateway.close()
                written = stand.everything()
                for token in TOKENS.values():
                    assert token.encode() not in written
                assert PLACEHOLDER.encode() not in written

    asyncio.run(run())
