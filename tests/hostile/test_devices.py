"""Devices bound by policy: what is granted is there and works, in both starts; what isn't, is not.

There is no GPU here: device files with the kernel's own /dev/zero behind them stand where a driver's would.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridgehold.errors import BridgeholdError
from hostile.stage import Stage, stage

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(os.getuid() != 0, reason="only root makes device files"),
]

GIVEN, OTHER, ABSENT, UNNAMED = (f"/dev/nvidia{number}" for number in (240, 241, 242, 243))
LOOK = """
import os
result["there"] = sorted(name for name in os.listdir("/dev") if name.startswith("nvidia"))
for name in result["there"]:
    with open("/dev/" + name, "rb") as device:
        result[name] = device.read(4).hex()
try:
    os.mknod("/dev/nvidia9", 0o020666, os.makedev(1, 5))
    result["made"] = True
except OSError as error:
    result["made"] = error.strerror
"""


@pytest.fixture(scope="module")
def devices() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in (GIVEN, OTHER, UNNAMED):
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(1, 5))
            stack.callback(os.unlink, name)
            Path(name).chmod(0o666)
        yield


@pytest.fixture(scope="module", params=["cold", "fork"])
def there(request: pytest.FixtureRequest, devices: None) -> Iterator[Stage]:
    named = f'devices = ["{GIVEN}", "{OTHER}", "{ABSENT}"]'
    with stage("root", request.param, host=named) as ready:
        yield ready


def granted(there: Stage, *names: str, weakenings: str = '"devices"') -> str:
    """A bridge whose policy grants these."""
    bridge = there.bridge()
    policy = there.layout.policies / f"{bridge}.toml"
    listed = ", ".join(f'"{name}"' for name in names)
    policy.write_text(
        f"weakenings = [{weakenings}]\n{policy.read_text()}[filesystem]\ndevices = [{listed}]\n"
    )
    return bridge


def refused(there: Stage, bridge: str) -> BridgeholdError:
    with pytest.raises(BridgeholdError) as caught, there.session(bridge):
        pass
    return caught.value


def test_a_granted_device_works_and_no_other_is_there(there: Stage) -> None:
    with there.session(granted(there, GIVEN)) as session:
        found = session.run("act", {"code": LOOK})
    assert found["there"] == ["nvidia240"]
    assert found["nvidia240"] == "00000000"
    assert found["made"] in ("Operation not permitted", "Read-only file system", "Permission denied")
    assert there.act(LOOK)["there"] == []
    proofs = there.events("worker.attested")
    assert [proof["weakenings"] for proof in proofs][-2:] == [["devices"], []]
    if there.start == "fork":
        assert all(proof["zygote"] for proof in proofs)
        assert there.events("start.fell_back") == []


def test_a_device_that_is_not_there_is_a_typed_refusal(there: Stage) -> None:
    error = refused(there, granted(there, GIVEN, ABSENT))
    assert error.code == "unsupported"
    assert f"grants {ABSENT}, which this machine does not have" in error.message
    assert "[host] devices" in error.hint
    error = refused(there, granted(there, UNNAMED))  # it is there, but the operator never named it
    assert (error.code, UNNAMED in error.message) == ("unsupported", True)


def test_a_device_is_a_weakening_and_a_disk_is_none(there: Stage) -> None:
    error = refused(there, granted(there, GIVEN, weakenings=""))
    assert 'a device demands the weakening "devices"' in error.message
    for name in ("/dev/sda", "/dev/kvm", "/dev/nvidia0/../sda", "/dev/mem"):
        assert "is no device that can be granted" in refused(there, granted(there, name)).message
