"""Numbers that somebody writes are plain digits, wherever they are read: what Python takes beside them isn't."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import bridgehold
from bridgehold.config.http import listen_address
from bridgehold.config.load import load_config
from bridgehold.config.providers import is_place
from bridgehold.errors import BridgeholdError, ConfigError
from bridgehold.faces.cli.commands import app
from bridgehold.faces.cli.proposals import seconds_of
from bridgehold.faces.http.checks import check_accept
from bridgehold.faces.http.statuses import Refused
from bridgehold.ids import decimal_number, whole_number
from bridgehold.policies.approved import checked
from bridgehold.policies.limits_request import read_asked
from bridgehold.policies.tables import parse_time
from bridgehold.policies.tenants import Ceilings, limited
from bridgehold.policies.units import parse_days, parse_duration, parse_size

NONE = ("1_0", "٣", "１０", "²", " 1", "1 ", "1\n", "+1", "-1", "1e3", "0x10", "inf", "nan", "", "9" * 5_000)
ODD = tuple(text for text in NONE if text)
Read = Callable[[str], Any]


def _file(text: str) -> None:
    checked({"network.connect": (f"example.com:{text}",)})


def _weight(text: str) -> None:
    check_accept([f"text/plain;q={text}"], ["text/plain"])


READERS: dict[str, tuple[Read, str]] = {
    "whole_number": (whole_number, "10"),
    "decimal_number": (decimal_number, "0.5"),
    "cpu that a caller asks for": (lambda text: read_asked({"cpu": text}), "0.5"),
    "memory": (lambda text: parse_size(f"{text}MiB"), "256"),
    "memory that a caller asks for": (lambda text: read_asked({"memory": f"{text}MiB"}), "256"),
    "time": (lambda text: parse_duration(f"{text}s"), "30"),
    "days": (lambda text: parse_days(f"{text}d"), "7"),
    "days of a rule": (lambda text: seconds_of(f"{text}d"), "7"),
    "a moment": (lambda text: parse_time(f"{text}-12-31T00:00:00Z"), "2026"),
    "a ceiling": (lambda text: limited(Ceilings(), {"sessions": text}), "20"),
    "money": (lambda text: limited(Ceilings(), {"money_per_day": text}), "2.5"),
    "a port to listen on": (lambda text: listen_address(f"127.0.0.1:{text}", public=False), "8765"),
    "a port of a rule": (_file, "443"),
    "a weight": (_weight, "0.5"),
}


BESIDE = {"memory": "1 ", "memory that a caller asks for": "1 ", "time": "1 ", "a weight": "1 1\n"}
"""Before a unit is one space taken, as we print them; and what stands around it is HTTP's own."""


def is_refused(read: Read, text: str) -> bool:
    try:
        read(text)
    except (BridgeholdError, Refused, ValueError, typer.BadParameter):
        return True
    return False


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_plain_number_is_none(name: str) -> None:
    read, good = READERS[name]
    read(good)
    assert [text for text in ODD if not is_refused(read, text) and text not in BESIDE.get(name, "")] == []


@pytest.mark.parametrize("text", ODD)
def test_a_place_has_a_plain_port(text: str) -> None:
    assert is_place("example.com:443")
    assert not is_place(f"example.com:{text}")


@pytest.mark.parametrize("said", ['"1_0"', '"50"', "true", '" 50 "', '"٣"'])
@pytest.mark.parametrize("key", ["host.max_sessions", "host.drain_s", "http.connections", "zygotes.growth"])
def test_a_text_is_no_number_of_the_configuration(tmp_path: Path, key: str, said: str) -> None:
    table, _, name = key.partition(".")
    file = tmp_path / "config.toml"
    file.write_text(f"[{table}]\n{name} = 50\n")
    load_config(file, {})
    file.write_text(f"[{table}]\n{name} = {said}\n")
    with pytest.raises(ConfigError, match=rf"{key}: .*a number is expected"):
        load_config(file, {})


@pytest.mark.parametrize("said", ["inf", "nan", "9" * 400])
def test_a_variable_says_no_number_that_a_file_may_not(tmp_path: Path, said: str) -> None:
    with pytest.raises(ConfigError, match="a number"):
        load_config(tmp_path / "config.toml", {"BRIDGEHOLD__ZYGOTES__GROWTH": said})


@pytest.mark.parametrize("said", ['"on"', "1", '"true"'])
def test_a_text_or_number_is_no_flag_of_the_configuration(tmp_path: Path, said: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"[host]\novercommit = {said}\n")
    with pytest.raises(ConfigError, match="true or false is expected"):
        load_config(file, {})


def test_a_uid_of_the_configuration_is_a_number(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[principals.a]\nuids = ["1_0"]\n')
    with pytest.raises(ConfigError, match=r"principals\.a\.uids\.0"):
        load_config(file, {})


def numbers(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every option of every command that is a number."""
    for name in group.commands:
        command = group.commands[name]
        if hasattr(command, "commands"):
            yield from numbers(command, (*path, name))
        for one in command.get_params(typer.Context(command)):
            if one.type_descriptor.annotation in (int, float):
                yield " ".join((*path, name, one.name)), one


def test_no_option_of_any_command_takes_more() -> None:
    found = dict(numbers(app))
    assert len(found) > 10
    for name, one in found.items():

        def read(text: str, option: Any = one) -> object:
            return option.get_runtime_param().coerce(text, param=option, ctx=None)

        assert [text for text in ODD if not is_refused(read, text)] == [], name
        assert read("20") == 20, name


KERNELS = {"sandbox", "bridges"}
"""Packages in which a number comes from the kernel, or is read inside."""
NOT_READ = {"host/front/slips.py", "faces/attack/outside.py", "faces/legacy/loopback.py"} | {
    "faces/cli/terminal.py",
    "protocol/places.py",
}
"""Nothing comes of what is no ASCII there, it is the kernel's, or of bytes."""


def test_no_other_way_of_reading_a_number_is_begun() -> None:
    """`str.isdigit` and its kin say yes to what `int` reads as another number, or refuses."""
    root = Path(bridgehold.__file__).parent
    for path in root.rglob("*.py"):
        name = path.relative_to(root)
        if name.parts[0] in KERNELS or "assets" in name.parts or str(name) in NOT_READ:
            continue
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and node.attr in ("isdigit", "isdecimal", "isnumeric"):
                line = text.splitlines()[node.lineno - 1]
                assert "isascii" in line, f"{name}:{node.lineno}: bridgehold.ids.whole_number"
