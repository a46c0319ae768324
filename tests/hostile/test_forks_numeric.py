"""numpy and its thread pool, imported in a real zygote: what each fork draws, and how many threads it gets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import bridgehold
from hostile.stage import MANIFEST, Stage, stage

CUSTOM = Path(str(bridgehold.__file__)).parent / "bridges" / "shipped" / "custom"
KIND = "root" if os.getuid() == 0 else "self"
NUMERIC = MANIFEST.replace(
    'entry = "hostile:Hostile"\n',
    'entry = "hostile:Hostile"\nrequirements = "requirements.in"\nlock = "requirements.lock"\n'
    '[preload]\nmodules = ["numpy", "scipy.linalg"]\n',
)


@pytest.fixture(scope="module")
def numeric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(KIND, "fork", environments=True) as ready:
        name = ready.bridge(manifest=NUMERIC)
        for file in ("requirements.in", "requirements.lock"):
            shutil.copy(CUSTOM / file, ready.layout.bridges / name / file)
        policy = ready.layout.policies / f"{name}.toml"
        policy.write_text(
            policy.read_text()
            .replace("cpu = 1.0", "cpu = 2.0")
            .replace('memory = "256MiB"', 'memory = "1GiB"')
        )
        ready.__dict__["numeric"] = name
        yield ready


@pytest.mark.network
@pytest.mark.timeout(240)
def test_forks_of_numpy_draw_their_own_and_get_their_threads(numeric: Stage) -> None:  # ABUSE 38
    drawn: list[object] = []
    for _ in range(3):
        with numeric.session(numeric.__dict__["numeric"]) as session:
            found = session.run(
                "act",
                {
                    "code": "import os, numpy\n"
                    "result['drawn'] = [float(numpy.random.rand()), float(numpy.random.default_rng().random())]\n"
                    "result['before'] = len(os.listdir('/proc/self/task'))\n"
                    "a = numpy.random.rand(600, 600)\n"
                    "(a @ a).sum()\n"
                    "result['after'] = len(os.listdir('/proc/self/task'))\n"
                    "result['environment'] = os.popen('echo $OPENBLAS_NUM_THREADS').read().strip()\n"
                },
            )
            drawn += found["drawn"]
            assert found["environment"] == "2"
            assert found["after"] >= 3  # the interpreter's two, and at least one more of the pool
    assert len(set(drawn)) == 6
    assert numeric.events("start.fell_back") == []
    started = numeric.events("zygote.started")
    assert [event["modules"] for event in started] == [["numpy", "scipy.linalg"]]


@pytest.mark.network
@pytest.mark.timeout(240)
def test_another_generator_in_the_place_of_numpys_is_renewed_too(numeric: Stage) -> None:  # ABUSE 38
    with numeric.session(numeric.__dict__["numeric"]) as session:
        found = session.run(
            "act",
            {
                "code": "import numpy\n"
                "from bridgehold_inner import renew\n"
                "drawn = []\n"
                "for _ in range(2):\n"
                "    numpy.random.set_bit_generator(numpy.random.PCG64(1))\n"
                "    renew.renew_generators()\n"
                "    drawn.append(float(numpy.random.rand()))\n"
                "numpy.random.set_bit_generator(numpy.random.PCG64(1))\n"
                "drawn.append(float(numpy.random.rand()))\n"
                "result['drawn'] = drawn\n"
                "result['kind'] = type(numpy.random.get_bit_generator()).__name__\n"
            },
        )
    assert len(set(found["drawn"])) == 3
    assert found["kind"] == "PCG64"
