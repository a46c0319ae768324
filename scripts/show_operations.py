"""Run the examples of shipped bridges' pages for real, and put in what they answered.

``python scripts/show_operations.py [BRIDGE…] [--home DIR]``: in a page's ```` ```console ```` blocks, a line
``> operation {arguments}`` is run in one session, and the lines below it become its result. The provider is
the test kit's; environments are built in `--home`, or anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import tempfile
from pathlib import Path

import bridgehold
from bridgehold.bridges.kit.provider import Provider
from bridgehold.client.client import Host
from bridgehold.client.session import ClientSession
from bridgehold.config.layout import Layout, find_layout
from bridgehold.config.load import load_config
from bridgehold.keeper.admin import SecretAdmin

SHIPPED = Path(bridgehold.__file__).parent / "bridges" / "shipped"
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
_LONGEST = 400


def prepare(home: Path, bridge: str, base_url: str) -> Layout:
    layout = find_layout({"BRIDGEHOLD_HOME": str(home)}, os.getuid())
    layout.policies.mkdir(parents=True, exist_ok=True)
    layout.config_file.write_text(
        f'[providers.openai]\nbase_url = "{base_url}"\nprivate = true\n[bridges.{bridge}]\npolicy = "shown"\n'
    )
    (layout.policies / "shown.toml").write_text(
        f'extends = "{bridge}"\nweakenings = ["private_network"]\n'
        '[sandbox]\nenforcement = "weakened"\n[operations]\nallow = ["*"]\n'
    )
    return layout


async def refresh(bridge: str, home: Path) -> None:
    page = SHIPPED / bridge / "README.md"
    text = page.read_text()
    async with Provider.open() as provider:
        layout = prepare(home, bridge, provider.base_url)
        admin = SecretAdmin.for_layout(layout, load_config(layout.config_file))
        admin.set("local", "openai", provider.key.encode())
        async with Host.open(layout) as host, host.session(bridge) as session:
            for block in _BLOCK.findall(text):
                text = text.replace(block, await _answered(session, block))
    page.write_text(text)


async def _answered(session: ClientSession, block: str) -> str:
    lines = []
    for line in block.splitlines():
        if line.startswith("> "):
            name, _, arguments = line[2:].partition(" ")
            lines += [line, await _result(session, name, json.loads(arguments or "{}"))]
    return "\n".join(lines) + "\n"


async def _result(session: ClientSession, name: str, arguments: dict[str, object]) -> str:
    try:
        if "stream" in name:
            chunks = [chunk async for chunk in session.stream(name, arguments)]
            return "\n".join(_short(chunk) for chunk in chunks[:3])
        return _short(await session.run(name, arguments))
    except bridgehold.BridgeholdError as error:
        return f"{error.code}: {error.message}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("bridges", nargs="*", default=sorted(path.name for path in SHIPPED.iterdir()))
    parser.add_argument("--home", default="", help="a folder whose environments are used again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bh-") as fresh:
        home = Path(arguments.home or fresh)
        home.chmod(0o755)
        for bridge in arguments.bridges:
            asyncio.run(refresh(bridge, home))


if __name__ == "__main__":
    main()
