"""Stores: nothing in the clear, nothing open to others, nothing auto-detected, no value in any text."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import argon2
import pytest

from bridgehold.config.layout import find_layout
from bridgehold.config.load import parse_config
from bridgehold.config.providers import ProviderEntry
from bridgehold.errors import BridgeholdError, ConfigError, NotFoundError, SecretError, UsageError
from bridgehold.keeper.admin import SecretAdmin
from bridgehold.keeper.index import read_index
from bridgehold.keeper.store_file import FileStore
from bridgehold.keeper.store_keyring import KeyringStore
from bridgehold.keeper.stores import open_store
from bridgehold.keeper.values import KeeperConfig, StoreConfig, check_config, keeper_config

Admin = Callable[[], SecretAdmin]


def test_what_is_set_comes_back_and_stands_nowhere_in_the_clear(
    secrets_folder: Path, acme_key: str, admin: Admin
) -> None:
    assert bytes(FileStore(secrets_folder).get("acme", "openai") or b"").decode() == acme_key
    for path in secrets_folder.iterdir():
        assert acme_key.encode() not in path.read_bytes(), path
        assert path.stat().st_mode & 0o077 == 0, f"{path} is open to others"
    (reference,) = admin().list()
    assert (reference.tenant, reference.name, reference.store) == ("acme", "openai", "file")
    assert not reference.allow_env


def test_removal_takes_it_out_of_index_and_store(secrets_folder: Path, admin: Admin) -> None:
    admin().remove("acme", "openai")
    assert read_index(secrets_folder).secrets == ()
    assert FileStore(secrets_folder).get("acme", "openai") is None
    with pytest.raises(NotFoundError):
        admin().remove("acme", "openai")


@pytest.mark.parametrize(
    "value", [b"", b"short", b"has space in it", b"line\nbreak-in-it", b"\xff" * 20, b"x" * 9_000]
)
def test_values_that_no_header_can_carry_are_refused_without_being_shown(admin: Admin, value: bytes) -> None:
    with pytest.raises(SecretError) as refused:
        admin().set("acme", "other", value)
    assert value == b"" or value.decode("latin-1") not in f"{refused.value.message}{refused.value.hint}"


def test_names_are_checked(admin: Admin) -> None:
    with pytest.raises(UsageError):
        admin().set("../acme", "openai", b"0123456789")
    with pytest.raises(UsageError):
        admin().set("acme", "open/ai", b"0123456789")


def test_a_file_that_others_could_have_written_is_refused(secrets_folder: Path) -> None:
    key_file = secrets_folder / "secrets.key"
    key_file.chmod(0o640)
    with pytest.raises(SecretError, match="open to others"):
        FileStore(secrets_folder).get("acme", "openai")
    key_file.chmod(0o600)
    kept = key_file.read_bytes()
    key_file.unlink()
    (secrets_folder / "elsewhere").write_bytes(kept)
    key_file.symlink_to(secrets_folder / "elsewhere")
    with pytest.raises(SecretError):
        FileStore(secrets_folder).get("acme", "openai")


def test_another_passphrase_opens_nothing(secrets_folder: Path) -> None:
    (secrets_folder / "secrets.key").write_text("not-the-passphrase")
    for name in ("openai", "nothing-of-that-name"):
        with pytest.raises(SecretError, match="passphrase"):
            FileStore(secrets_folder).get("acme", name)


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(passes, KiB) that each Argon2 is asked for; it is done at the least, so that it takes no second."""
    told: list[tuple[int, int]] = []
    derive = argon2.low_level.hash_secret_raw

    def counted(**given: Any) -> bytes:
        told.append((given["time_cost"], given["memory_cost"]))
        return derive(**{**given, "time_cost": 1, "memory_cost": 16})

    monkeypatch.setattr(argon2.low_level, "hash_secret_raw", counted)
    return told


def test_a_key_costs_one_argon2(secrets_folder: Path, acme_key: str, derived: list[tuple[int, int]]) -> None:
    assert FileStore(secrets_folder).get("acme", "openai") == acme_key.encode()
    assert len(derived) == 1


@pytest.mark.parametrize("chosen", ["", "a word", "random:a-word", "Xy_-" * 16])
def test_only_a_passphrase_that_we_drew_is_tried_in_no_time(
    tmp_path: Path, chosen: str, derived: list[tuple[int, int]]
) -> None:
    """The last is of a file from before drawn ones said so: it is opened as it was made."""
    key_file = tmp_path / "secrets.key"
    if chosen:
        key_file.write_text(chosen)
        key_file.chmod(0o600)
    store = FileStore(tmp_path)
    store.set("acme", "openai", b"0123456789abcdef")
    assert store.get("acme", "openai") == b"0123456789abcdef"
    assert set(derived) == {(15, 1 << 16) if chosen else (1, 16)}
    drawn = key_file.read_text()
    assert drawn == chosen or len(drawn) == len("random:") + 64


def test_a_lost_key_file_is_not_made_anew_over_what_it_locks(secrets_folder: Path, admin: Admin) -> None:
    (secrets_folder / "secrets.key").unlink()
    with pytest.raises(SecretError, match="missing"):
        admin().set("acme", "other", b"0123456789")


def test_the_passphrase_may_come_from_a_systemd_credential(tmp_path: Path) -> None:
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "bridgehold-passphrase").write_text("from-the-service-manager\n")
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    store = FileStore(folder, "bridgehold-passphrase", str(directory))
    store.set("acme", "openai", b"0123456789abcdef")
    assert not (folder / "secrets.key").exists()
    assert bytes(store.get("acme", "openai") or b"") == b"0123456789abcdef"
    with pytest.raises(SecretError):
        FileStore(folder, "../../etc/passwd", str(directory)).get("acme", "openai")


def test_systemd_credentials_are_read_only_and_by_tenant(tmp_path: Path) -> None:
    (tmp_path / "openai").write_text("sk-local-0123456789\n")
    (tmp_path / "acme.openai").write_text("sk-acme-0123456789")
    config = StoreConfig(folder=str(tmp_path), store="systemd", credentials_directory=str(tmp_path))
    store = open_store(config)
    assert bytes(store.get("acme", "openai") or b"") == b"sk-acme-0123456789"
    assert bytes(store.get("local", "openai") or b"") == b"sk-local-0123456789"
    assert store.get("umbra", "openai") is None
    assert {(r.tenant, r.name) for r in SecretAdmin(config).list()} == {
        ("acme", "openai"),
        ("local", "openai"),
    }
    with pytest.raises(SecretError, match="read only"):
        SecretAdmin(config).set("acme", "openai", b"0123456789")
    with pytest.raises(SecretError, match="CREDENTIALS_DIRECTORY"):
        open_store(StoreConfig(folder=str(tmp_path), store="systemd"))


def test_no_bus_is_a_refusal_and_never_another_back_end(tmp_path: Path) -> None:
    """Headless, with a plaintext back-end asked for by keyring's own means: still a typed refusal."""
    (tmp_path / "keyringrc.cfg").write_text(
        "[backend]\ndefault-keyring=keyrings.cryptfile.file.PlaintextKeyring\n"
    )
    code = (
        "from bridgehold.errors import SecretError\n"
        "from bridgehold.keeper.stores import open_store\n"
        "from bridgehold.keeper.values import StoreConfig\n"
        "try:\n"
        f"    open_store(StoreConfig(folder={str(tmp_path)!r}, store='keyring'))\n"
        "except SecretError as error:\n"
        "    print('refused', error.code)\n"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "PYTHON_KEYRING_BACKEND": "keyrings.cryptfile.file.PlaintextKeyring",
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={tmp_path}/no-bus",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == "refused secret"


class _Forgetful:
    """keyring's null back-end: takes everything, gives nothing back."""

    def set_password(self, service: str, name: str, value: str) -> None:
        return None

    def get_password(self, service: str, name: str) -> None:
        return None


def test_a_keyring_that_forgets_is_found_out() -> None:
    forgetful: Any = _Forgetful()
    with pytest.raises(SecretError, match="does not give it back"):
        KeyringStore(forgetful).set("acme", "openai", b"0123456789")


def test_root_gives_what_it_writes_to_the_folders_owner(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root writes for another uid")
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    SecretAdmin.open_file(folder).set("acme", "openai", b"0123456789")
    assert {path.stat().st_uid for path in folder.iterdir()} == {65534}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"base_url": "http://api.example.com/v1"}, "without TLS"),
        ({"base_url": "https://user:pw@api.example.com/v1"}, "user or a password"),
        ({"base_url": "https://api.example.com/v1?x=y"}, "plain path"),
        ({"base_url": "ftp://api.example.com"}, "not an http"),
        ({"base_url": "https://api.example.com/v1", "auth": "header:bad name"}, "auth"),
        ({"base_url": "https://api.example.com/v1", "auth": "cookie:x"}, "auth"),
    ],
)
def test_a_wrong_provider_is_a_config_error(changes: dict[str, Any], fault: str) -> None:
    config = KeeperConfig(secrets=StoreConfig(folder="/x"), providers=(ProviderEntry(name="p", **changes),))
    with pytest.raises(ConfigError, match=fault):
        check_config(config)


def test_the_operators_configuration_becomes_the_keepers(tmp_path: Path) -> None:
    text = '[providers.local]\nbase_url = "http://127.0.0.1:8000/v1"\nprivate = true\nsecret = "llm"\n'
    layout = find_layout({"BRIDGEHOLD_HOME": str(tmp_path)}, 1000)
    made = keeper_config(layout, parse_config(text, "config.toml"))
    assert [(e.name, e.secret_name) for e in made.providers] == [
        ("anthropic", "anthropic"),
        ("gemini", "gemini"),
        ("local", "llm"),
        ("openai", "openai"),
    ]
    assert made.secrets.folder == str(layout.secrets)


def test_errors_are_typed(secrets_folder: Path) -> None:
    (secrets_folder / "index.json").write_bytes(b"{broken")
    with pytest.raises(BridgeholdError):
        read_index(secrets_folder)


def test_a_session_without_a_bus_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    with pytest.raises(SecretError, match=r"no Secret Service here: .*DBUS_SESSION_BUS_ADDRESS"):
        KeyringStore.secret_service()
