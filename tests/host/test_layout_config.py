from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

import bridgehold
from bridgehold.audit.reading.shelf import cache_folder
from bridgehold.config.layout import find_layout, unread
from bridgehold.config.load import parse_config
from bridgehold.errors import ConfigError, DeniedError
from bridgehold.host.front.principals import Principals


def test_root_service_user_and_home_layouts() -> None:
    assert find_layout({}, 0).socket == Path("/run/bridgehold/host.sock")
    user = find_layout({"HOME": "/home/ann", "XDG_RUNTIME_DIR": "/run/user/1000"}, 1000)
    assert user.config == Path("/home/ann/.config/bridgehold")
    assert user.state == Path("/home/ann/.local/share/bridgehold")
    assert user.socket == Path("/run/user/1000/bridgehold/host.sock")
    one = find_layout({"BRIDGEHOLD_HOME": "/srv/bh"}, 0)
    assert (one.config, one.state, one.run) == (
        Path("/srv/bh/config"),
        Path("/srv/bh/state"),
        Path("/srv/bh/run"),
    )


def test_a_user_without_a_home_in_the_environment_has_the_one_the_machine_knows() -> None:
    known = pwd.getpwuid(1).pw_dir
    for environ in ({}, {"HOME": ""}, {"HOME": "relative"}):
        found = find_layout(environ, 1)
        assert found.config == Path(known, ".config/bridgehold")
        assert found.state == Path(known, ".local/share/bridgehold")
        here = pwd.getpwuid(os.getuid()).pw_dir
        assert cache_folder(environ) == Path(here, ".cache/bridgehold/audit-index")
        assert Path(here, ".config/bridgehold/config.toml") in unread(
            {**environ, "BRIDGEHOLD_HOME": "/srv"}, os.getuid()
        )
    assert find_layout({}, 2**31 - 5).config == Path("/.config/bridgehold")  # whom no machine knows


def test_empty_configuration_is_sound_and_knows_openai() -> None:
    config = parse_config("", "config.toml")
    assert config.providers["openai"].base_url.startswith("https://")
    assert config.reserve_bytes() == 1 << 30


def test_every_fault_is_named_at_once() -> None:
    text = '[host]\nmemory_reserve = "lots"\nsurprise = 1\n[providers.Bad]\nbase_url = 3\n'
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.toml")
    message = caught.value.message
    for part in ("host.memory_reserve", "host.surprise", "providers.Bad.base_url"):
        assert part in message
    assert caught.value.where == "config.toml"


def test_what_is_one_line_or_a_name_ends_where_it_ends() -> None:
    faults = {
        '[host]\ncgroup = "auto\\n"\n': r"host\.cgroup: ",
        '[host]\nmemory_reserve = "1GiB\\n"\n': r"host\.memory_reserve: ",
        '[host]\npythons = ["/a/python3", "/b/python3\\n"]\n': r"host\.pythons\.1: ",
        '[host]\ndevices = ["/dev/nvidia0\\n"]\n': r"host\.devices\.0: ",
        '[bridges.a]\npolicy = "b\\n"\n': r"bridges\.a\.policy: ",
        '[principals.a]\ntenants = ["*\\n"]\n': r"principals\.a\.tenants\.0: ",
        '[push."a\\n"]\nkind = "folder"\nto = "/a"\n': r"push\.a\n: as its name ",
    }
    for text, fault in faults.items():
        with pytest.raises(ConfigError, match=fault):
            parse_config(text, "config.toml")


def test_what_is_wrong_is_said_without_the_value() -> None:
    for text in (
        '[secrets]\nstore = "hunter2"\n',
        '[host]\ncells = "hunter2"\n',
        '[supply]\nblock = "hunter2"\n',
    ):
        with pytest.raises(ConfigError, match="one of ") as caught:
            parse_config(text, "config.toml")
        assert "hunter2" not in caught.value.message


def test_names_of_sections_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"providers\.Bad Name"):
        parse_config('[providers."Bad Name"]\nbase_url = "http://x"\n', "config.toml")


def test_a_token_must_be_a_digest() -> None:
    with pytest.raises(ConfigError, match="tokens"):
        parse_config('[principals.app]\ntokens = ["hunter2"]\n', "config.toml")


class TestPrincipals:
    config = parse_config(
        "[principals.app]\nuids = [1001]\ntenants = ['acme']\n"
        "tokens = ['sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b']\n",
        "config.toml",
    )
    principals = Principals(config.principals, owner_uid=500)

    def test_a_mapped_user_gets_its_tenants_only(self) -> None:
        app = self.principals.by_uid(1001)
        assert app.may_act_for("acme")
        assert not app.may_act_for("other")
        assert not app.operator

    def test_root_and_the_owner_are_operators(self) -> None:
        assert self.principals.by_uid(0).operator
        assert self.principals.by_uid(500).may_act_for("any")

    def test_a_user_without_a_mapping_is_refused(self) -> None:
        with pytest.raises(DeniedError, match="1002"):
            self.principals.by_uid(1002)

    def test_a_token_selects_its_principal_and_a_wrong_one_nobody(self) -> None:
        assert self.principals.by_token("secret").name == "app"
        with pytest.raises(DeniedError):
            self.principals.by_token("secret2")


def test_processes_find_what_their_supervisor_has_wherever_it_was_installed(tmp_path: Path) -> None:
    """`pip install --user` and `--target`: the fetcher has no home, and nobody stands in the caller's folder."""
    program = "from bridgehold.supervisor import plans; print(plans._environment().get('PYTHONPATH', '-'))"
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    own = tmp_path / "base/lib" / version / "site-packages"
    own.mkdir(parents=True)
    (tmp_path / "target").mkdir()
    found = Path(bridgehold.__file__).parents[1]
    base = os.path.realpath(Path(sys.base_prefix, "bin", version))  # one in an environment has no user's own
    packages = os.pathsep.join(str(Path(entry)) for entry in sys.path if entry.endswith("-packages"))

    def said(python: str, path: str) -> list[str]:
        environ = {"PATH": "/usr/bin:/bin", "PYTHONUSERBASE": str(tmp_path / "base"), "PYTHONPATH": path}
        argv = [python, "-P", "-c", program]
        done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
        return done.stdout.strip().split(os.pathsep)

    assert said(base, os.pathsep.join(("target", str(found), packages))) == [
        str(tmp_path / "target"),
        str(found),
        *packages.split(os.pathsep),
        str(own),
    ]
    assert said(sys.executable, "target") == [str(tmp_path / "target")]
    assert said(sys.executable, "") == ["-"]


def test_a_shipped_provider_keeps_what_its_table_leaves_out() -> None:
    """All that anybody wants to change is where it is."""
    text = '[providers.{}]\nbase_url = "http://127.0.0.1:8900/v1"\nprivate = true\n{}'
    for name, more, shape, auth in (
        ("openai", "", "openai", "bearer"),
        ("anthropic", "", "anthropic", "header:x-api-key"),
        ("gemini", "", "gemini", "header:x-goog-api-key"),
        ("anthropic", 'auth = "bearer"', "anthropic", "bearer"),
        ("anthropic", 'shape = "anthropic"', "anthropic", "header:x-api-key"),
        ("anthropic", 'shape = "openai"', "openai", "bearer"),
        ("mine", "", "openai", "bearer"),
    ):
        made = parse_config(text.format(name, more), "config.toml").providers[name]
        assert (made.shape, made.auth, made.base_url) == (shape, auth, "http://127.0.0.1:8900/v1")
