"""The demo's own layout: a configuration, two stealer bridges, their wheels, and where environments stay.

Nothing of the user's own Bridgehold is touched; environments are kept between runs.
"""

from __future__ import annotations

import json
import os
import shutil
from importlib.resources import files
from pathlib import Path

from bridgehold import reads, writes
from bridgehold.config.layout import Layout, find_layout
from bridgehold.config.load import load_config
from bridgehold.config.sections import HostSection
from bridgehold.faces.demo.wheels import lock_of, write_wheel

_MANIFEST = """\
name = "{name}"
version = "1.0.0"
summary = "The demo's stealer: a bridge with a poisoned dependency"
entry = "stealer_bridge:Stealer"
requirements = "requirements.in"
lock = "requirements.lock"

[operations.report]
summary = "What the thief tried, and how each attempt ended"
effect = "read"
"""

_OPEN_NEEDS = """
[[needs.connects]]
host = "127.0.0.1"
port = {port}
private = true

[[needs.secrets]]
name = "openai"
how = "env"
variable = "OPENAI_API_KEY"
"""

_OPEN_POLICY = """\
# How bridges run elsewhere: keys in the environment, the way out open. Each weakening has its name.
extends = "baseline"
weakenings = ["env_secret", "connect", "private_network", "pth"]

[operations]
allow = ["stealer-open:*"]

[[network.connect]]
host = "127.0.0.1"
port = {port}
private = true

[secrets.openai]
how = "env"
variable = "OPENAI_API_KEY"

[sandbox]
enforcement = "weakened"
"""

_DEFAULT_POLICY = """\
# The default: nothing but the operation itself.
extends = "baseline"

[operations]
allow = ["stealer:*", "stealer-pth:*"]
"""

_LOCAL_PROVIDER_POLICY = """\
# dspy's own policy, with the one weakening that the local provider needs: it lives on the loopback.
extends = "dspy"
weakenings = ["private_network"]

[sandbox]
enforcement = "weakened"
"""

_CONFIG = """\
[host]
read_roots = []
{host}
[providers.openai]
base_url = "{provider}"
private = {private}

[bridges.dspy]
policy = "demo-dspy"

[bridges.stealer-pth]
policy = "stealer"

[secrets]
store = "{store}"
"""


_OF_THE_MACHINE = (
    "cgroup",
    "memory_reserve",
    "overcommit",
    "shared_uid",
    "uid_base",
    "uid_count",
    "index",
)


def default_home() -> Path:
    """Where the demo lives: below the cache folder, or /var/cache for root."""
    if os.getuid() == 0:
        return Path("/var/cache/bridgehold-demo")
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else reads.home_of(os.environ, os.getuid()) / ".cache") / "bridgehold-demo"


def own_host_section(user: Layout) -> str:
    """What the user's own configuration says of this machine's cgroups, uids and index: it holds here too."""
    if not user.config_file.exists():
        return ""
    section, plain = load_config(user.config_file).host, HostSection()
    said = {name: getattr(section, name) for name in _OF_THE_MACHINE}
    return "".join(
        f"{name} = {json.dumps(value)}\n" for name, value in said.items() if value != getattr(plain, name)
    )


def prepare(
    home: Path, *, provider: str, private: bool, store: str, sink_port: int, host: str = ""
) -> Layout:
    """Write the demo's configuration anew, and clear its audit. Environments stay. `host`: more of [host]."""
    layout = find_layout({"BRIDGEHOLD_HOME": str(home)}, os.getuid())
    writes.make_folder(home)
    writes.give(home, os.getuid(), os.getgid(), 0o755)
    for folder in (layout.config, layout.audit, layout.anchors, layout.secrets):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (layout.policies, layout.bridges):
        writes.make_folder(folder)
    config = _CONFIG.format(provider=provider, private=str(private).lower(), store=store, host=host)
    writes.replace(layout.config_file, config)
    dspy = _LOCAL_PROVIDER_POLICY if private else 'extends = "dspy"\n'
    writes.replace(layout.policies / "demo-dspy.toml", dspy)
    writes.replace(layout.policies / "stealer.toml", _DEFAULT_POLICY)
    writes.replace(layout.policies / "stealer-open.toml", _OPEN_POLICY.format(port=sink_port))
    drop = f"http://127.0.0.1:{sink_port}/drop"
    poisoned = write_wheel(home / "wheels" / "poisoned", drop=drop, with_pth=True)
    plain = write_wheel(home / "wheels" / "plain", drop=drop, with_pth=False)
    _bridge(layout, "stealer-open", poisoned, _OPEN_NEEDS.format(port=sink_port))
    _bridge(layout, "stealer", plain, "")
    _bridge(layout, "stealer-pth", poisoned, "")
    return layout


def _bridge(layout: Layout, name: str, wheel: Path, needs: str) -> None:
    folder = layout.bridges / name
    writes.make_folder(folder)
    writes.replace(folder / "bridge.toml", _MANIFEST.format(name=name) + needs)
    code = files("bridgehold.faces.demo") / "assets" / "stealer" / "stealer_bridge.py"
    writes.replace(folder / "stealer_bridge.py", code.read_bytes())
    writes.replace(folder / "requirements.in", "litelike\n")
    writes.replace(folder / "requirements.lock", lock_of(wheel))
