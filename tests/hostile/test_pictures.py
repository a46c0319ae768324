"""Forms of real libraries, made in sandboxes: matplotlib, plotly and PIL, without a display and without asking."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from bridgehold.client.sync import SyncSession
from hostile.stage import PAIRED, USER, Stage, copy_environment, stage
from pictures import NAME, POLICY, lay

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module", params=PAIRED, ids="-".join)
def host(request: pytest.FixtureRequest) -> Iterator[Stage]:
    kind, start = request.param
    with stage(kind, start, zygote="512MiB", environments=kind != "user") as ready:
        if kind == "user":
            copy_environment("matplotlib", ready.layout.environments, user=USER)
        lay(ready.layout.bridges)
        (ready.layout.policies / f"{NAME}.toml").write_text(POLICY.format(start=start))
        yield ready
        assert ready.events("start.fell_back") == []


@pytest.fixture
def session(host: Stage) -> Iterator[SyncSession]:
    with host.client.session(NAME) as session:
        yield session


def size(form: str) -> tuple[int, int]:
    """Of a PNG, in pixels."""
    data = base64.b64decode(form, validate=True)
    assert data.startswith(PNG)
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_a_figure_of_matplotlibs_is_shown_without_asking(session: SyncSession) -> None:
    said = session.execute("import matplotlib.pyplot as plt\nplt.plot([3, 1, 4])\nprint('drawn')")
    [shown] = said["displays"]
    assert size(shown["image/png"]) > (300, 200)
    assert shown["image/svg+xml"].endswith("</svg>\n")
    assert "Figure" in shown["text/plain"]
    assert said["stdout"] == "drawn\n"
    said = session.execute("figure, axes = plt.subplots()\naxes.bar(['a'], [1])\nplt.close(figure)\nfigure")
    assert size(said["forms"]["image/png"]) > (300, 200)
    assert "displays" not in session.execute("1")  # what was shown is closed
    said = session.execute("for n in range(3): plt.figure(); plt.plot([n])")
    assert len(said["displays"]) == 3
    assert len({one["image/png"] for one in said["displays"]}) == 3


def test_a_figure_of_very_many_points_is_its_picture_alone(session: SyncSession) -> None:
    points = "import matplotlib.pyplot as plt\nplt.scatter(range(20_000), range(20_000))\nprint()"
    [shown] = session.execute(points)["displays"]
    assert size(shown["image/png"]) > (300, 200)
    assert shown["left_out"] == {"image/svg+xml": "more than 131072 bytes"}


def test_matplotlibs_list_of_fonts_is_made_once_with_the_environment(session: SyncSession) -> None:
    """Each session finds it as its own file; matplotlib reads it, and may write it anew."""
    code = "import glob, matplotlib, os\nimport matplotlib.font_manager as m\n"
    code += (
        "[made], [own] = glob.glob('/env/cache/*/*'), glob.glob(matplotlib.get_cachedir() + '/fontlist*')\n"
    )
    code += "def read(path):\n    with open(path, 'rb') as file: return file.read()\n"
    found = session.execute(f"{code}(len(m.fontManager.ttflist) > 10, read(own) == read(made))")
    assert found["value"] == [True, True]
    again = "m._load_fontmanager(try_read_cache=False)\n(os.access(made, os.W_OK), read(own) == read(made))"
    assert session.execute(again)["value"] == [False, False]


def test_a_figure_of_plotlys_is_html_and_data(session: SyncSession) -> None:
    said = session.execute(
        "import plotly.graph_objects as go\ngo.Figure(data=go.Bar(x=['a', 'b'], y=[3, 1]))"
    )
    data = said["forms"]["application/vnd.plotly.v1+json"]
    assert data["data"][0]["type"] == "bar"
    assert "Plotly.newPlot" in said["forms"]["text/html"]
    assert said["forms"]["text/plain"].startswith("Figure(")


def test_an_image_of_pils_is_a_picture_within_a_bound(session: SyncSession) -> None:
    said = session.execute("from PIL import Image\nImage.new('RGB', (8, 4), 'red')")
    assert size(said["forms"]["image/png"]) == (8, 4)
    noise = "import os\nImage.frombytes('RGB', (1500, 1500), os.urandom(1500 * 1500 * 3))"
    said = session.execute(noise)
    assert "image/png" in said["forms"]["left_out"]
    assert said["repr"].startswith("<PIL.Image.Image")


def test_pictures_come_live_and_in_their_place(session: SyncSession) -> None:
    code = (
        "from PIL import Image\nprint('before')\nplace = display(Image.new('L', (2, 2)), display_id=True)\n"
        "place.update(Image.new('L', (3, 3)))\nclear_output(wait=True)\ndisplay(Image.new('L', (4, 4)))"
    )
    told: list[Any] = []
    said = session.execute(code, on_event=told.append)
    chunks = [one["data"] for one in told if one["type"] == "chunk"]
    assert [one.get("clear") or size(one["display"]["image/png"]) for one in chunks] == [
        (2, 2),
        (3, 3),
        True,
        (4, 4),
    ]
    assert told[0]["type"] == "output"
    assert [size(one["image/png"]) for one in said["displays"]] == [(4, 4)]
