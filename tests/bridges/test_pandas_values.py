"""Every way in and every operation of the pandas bridge on hostile numbers: the value that was meant, or a refusal.

The truth is what was generated, compared as Python compares: exactly. Where pandas loses nothing itself, it must
agree; it is asked by a bridge of the test's own, in a sandbox like any other.
"""

from __future__ import annotations

import csv
import io
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridgehold.bridges.catalogue import Catalogue
from bridgehold.bridges.frames import FaultFrame, ReadyFrame

pytestmark = pytest.mark.network
MANIFEST = Catalogue.load().get("pandas")
FEW = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
EDGES = [0, 1, -1, 127, 128, 255, 256, 2**31, 2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)]
INTEGERS = st.one_of(st.sampled_from(EDGES), st.integers(-(2**63), 2**63 - 1))
FLOATS = st.one_of(
    st.sampled_from(
        [0.1, -0.0, 1e300, -1e300, 1e-300, 5e-324, 3.5e38, 1e-46, 65504.0, 65520.0, 2.0**53, 2.5]
    ),
    st.floats(allow_nan=False, allow_infinity=False),
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1, max_size=6)
ORACLE = """
import io
import pandas as pd
from bridgehold_sdk import Bridge, operation

class Oracle(Bridge):
    @operation()
    def read(self, text):
        frame = pd.read_csv(io.StringIO(text), float_precision="round_trip")
        return {str(name): [str(frame[name].dtype), [repr(cell) for cell in frame[name].tolist()]] for name in frame}

    @operation()
    def times(self, which):
        import datetime, zoneinfo
        import numpy as np
        paris = zoneinfo.ZoneInfo("Europe/Paris")
        return {
            "moments": lambda: [
                np.datetime64("2024-02-29T12:30:15.123456789"), np.datetime64("2024-02-29"), np.datetime64("2024-02"),
                np.array(["2024-02-29T12:30:15.123456789"], dtype="M8[ns]"), np.array("2024-02-29T12", dtype="M8[h]"),
                pd.Timestamp("2024-02-29 12:30:15.123456789"), pd.Timestamp("2024-07-01 12:00", tz=paris),
                datetime.datetime(2024, 7, 1, 12, tzinfo=paris), pd.Series(pd.to_datetime(["2024-02-29"])),
                pd.DatetimeIndex(["2024-07-01"], tz="Europe/Paris"), [pd.Timestamp("1900-01-01").date()],
            ],
            "durations": lambda: [
                np.timedelta64(90, "s"), np.timedelta64(90_000_000_001, "ns"), np.timedelta64(3, "W"),
                np.array([1500], dtype="m8[ms]"), np.array(3, dtype="m8[25us]"), pd.Timedelta("90s"),
                pd.Timedelta(90_000_000_001, "ns"), datetime.timedelta(seconds=90),
                pd.Series(pd.to_timedelta(["90s"])), pd.TimedeltaIndex(["1ms"]),
            ],
            "nat": lambda: {"a": [pd.NaT]},
            "numpy_nat": lambda: np.array(["2024", "NaT"], dtype="M8[ns]"),
            "numpy_nat_duration": lambda: [np.timedelta64("NaT")],
            "series_nat": lambda: pd.Series([pd.Timestamp(0), pd.NaT]),
            "years": lambda: np.timedelta64(3, "Y"),
            "no_unit": lambda: np.timedelta64(3),
            "long": lambda: np.timedelta64(2**62 + 1, "ns"),
            "wide": lambda: np.longdouble("0.1"),
            "half": lambda: [np.float32(0.1), np.int64(2**63 - 1), np.uint64(2**64 - 1), np.bool_(True), np.array(5)],
        }[which]()

    @operation()
    def join(self, left, right, how):
        made = pd.DataFrame({"k": left, "l": range(len(left))}).merge(
            pd.DataFrame({"k": right, "r": range(len(right))}), on="k", how=how
        )
        return sorted([repr(cell) for cell in row] for row in made.values.tolist())
"""


@pytest.fixture
def oracle(
    launch: Any, environment: Callable[[str], Path], bridge_folder: Callable[[str], Path]
) -> Iterator[Any]:
    guest = launch(bridge_folder(ORACLE), site_packages=environment("pandas"))
    assert isinstance(guest.boot(bridge="sample", version="1.0.0", entry="sample:Oracle"), ReadyFrame)
    guest.open()
    return guest


def ask(guest: Any, name: str, /, **args: Any) -> Any:
    """The value, or the message of a typed refusal."""
    MANIFEST.check_arguments(name, args)
    answer = guest.call(f"pandas:{name}", args)
    if isinstance(answer, FaultFrame):
        assert answer.code == "invalid_input", answer
        return str(answer.message)
    return answer.result


def columns(guest: Any, frame: str) -> dict[Any, list[Any]]:
    page = ask(guest, "page", frame_id=frame, max_bytes=4 << 20)
    return {column["name"]: column["values"] for column in page["frame"]["columns"]}


def as_float32(value: float) -> float | None:
    """The nearest single, or None where that is another thing."""
    try:
        narrow = float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return None
    return narrow if math.isfinite(narrow) and abs(narrow - value) <= abs(value) * 2.0**-24 else None


def load(guest: Any, way: str, dtype: str, cells: list[Any]) -> Any:
    """The column ``a`` of `cells` by one of the three ways in; what came of it."""
    if way == "columns":
        given_: dict[str, Any] = {"columns": [{"name": "a", "dtype": dtype, "values": cells}]}
    elif way == "records":
        given_ = {"records": [{"a": cell} for cell in cells], "dtypes": {"a": dtype} if dtype else {}}
    else:
        lines = "".join("-\n" if cell is None else f"{cell!r}\n" for cell in cells)
        given_ = {
            "csv": "a\n" + lines,
            "options": {"missing": ["-"]},
            "dtypes": {"a": dtype} if dtype else {},
        }
    made = ask(guest, "load_frame", **given_)
    if isinstance(made, str):
        return made
    try:
        return columns(guest, made["frame_id"])["a"]
    finally:
        ask(guest, "delete_frame", frame_id=made["frame_id"])


@pytest.mark.parametrize("way", ["records", "csv"])
def test_integers_beside_a_missing_cell_stay_integers(pandas: Any, way: str) -> None:
    @FEW
    @given(st.lists(st.one_of(st.none(), INTEGERS), min_size=1, max_size=5))
    def check(cells: list[int | None]) -> None:
        found = load(pandas, way, "", cells)
        if any(cell is not None for cell in cells):
            assert found == cells
            assert all(type(cell) is int or cell is None for cell in found)

    check()


@pytest.mark.parametrize("way", ["columns", "records", "csv"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "Int16", "uint32", "int64", "UInt64"])
def test_an_integer_is_held_or_refused_with_its_place(pandas: Any, way: str, dtype: str) -> None:
    bits = int(dtype.lower().split("int")[1])
    low, high = (0, 2**bits - 1) if "u" in dtype.lower() else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    @FEW
    @given(st.lists(INTEGERS, min_size=1, max_size=4))
    def check(cells: list[int]) -> None:
        found = load(pandas, way, dtype, cells)
        wrong = [row for row, cell in enumerate(cells) if not low <= cell <= high]
        if not wrong:
            assert found == cells
            return
        assert isinstance(found, str)
        assert f"column 'a'[{wrong[0]}]" in found
        assert str(cells[wrong[0]]) in found

    check()


@pytest.mark.parametrize("way", ["columns", "records", "csv"])
def test_a_float_is_never_narrowed_to_infinity_or_zero(pandas: Any, way: str) -> None:
    @FEW
    @given(st.lists(FLOATS, min_size=1, max_size=4))
    def check(cells: list[float]) -> None:
        assert load(pandas, way, "float64", cells) == cells
        found = load(pandas, way, "float32", cells)
        narrow = [as_float32(cell) for cell in cells]
        if None in narrow:
            assert isinstance(found, str)
            assert f"column 'a'[{narrow.index(None)}]" in found
        else:
            assert found == narrow

    check()


def test_mixed_numbers_in_csv_stay_what_they_say(pandas: Any) -> None:
    @FEW
    @given(st.lists(st.one_of(INTEGERS, FLOATS), min_size=1, max_size=4))
    def check(cells: list[Any]) -> None:
        found = load(pandas, "csv", "", cells)
        assert [float(cell) if type(cell) is str and "." in cell else cell for cell in found] == [
            cell if type(found[row]) is not str else float(cell) if "." in repr(cell) else repr(cell)
            for row, cell in enumerate(cells)
        ]

    check()


def test_a_row_fits_its_header_or_is_refused(pandas: Any) -> None:
    said = ask(pandas, "load_frame", csv="id,n\n1,2,3\n4,5,6\n")
    assert "row 0 (line 2): 3 cells, and the header has 2; the first that is too many: '3'" in said
    said = ask(pandas, "load_frame", csv="1,2\n3,4,5\n", options={"header": False})
    assert "row 1 (line 2): 3 cells, and the first row has 2" in said
    assert "line 3" in ask(pandas, "load_frame", csv='a\n1\n"2\n')
    made = ask(pandas, "load_frame", csv="a,b,a,\n1\n2,x,3,4\n")
    assert [name for name, _ in made["dtypes"]] == ["a", "b", "a.1", "Unnamed: 3"]
    assert columns(pandas, made["frame_id"])["a.1"] == [None, 3]
    assert "no column 'zz'" in ask(pandas, "load_frame", csv="a\n1\n", dtypes={"zz": "int8"})


def test_quoted_text_comes_back(pandas: Any) -> None:
    @FEW
    @given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
    def check(rows: list[tuple[str, str]]) -> None:
        text = io.StringIO()
        csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("a", "b"), *rows])
        options = {"missing": ["\x01"]}
        made = ask(
            pandas, "load_frame", csv=text.getvalue(), options=options, dtypes={"a": "str", "b": "object"}
        )
        found = columns(pandas, made["frame_id"])
        assert list(zip(found["a"], found["b"], strict=True)) == rows
        ask(pandas, "delete_frame", frame_id=made["frame_id"])

    check()


def test_pandas_agrees_where_it_loses_nothing(pandas: Any, oracle: Any) -> None:
    cell = st.one_of(
        st.integers(-(2**53), 2**53).map(str),
        st.floats(allow_nan=False, allow_infinity=False).map(repr),
        st.sampled_from(
            ["True", "false", "x", "007", " 5", "1e5", "+3", ".5", "5.", "-", "1_0", "0x10", "1,5"]
        ),
    )

    @FEW
    @given(st.lists(cell, min_size=1, max_size=4))
    def check(cells: list[str]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["a"], *([one] for one in cells)])
        dtype, theirs = oracle.value("sample:read", {"text": text.getvalue()})["a"]
        made = ask(pandas, "load_frame", csv=text.getvalue())
        ours = columns(pandas, made["frame_id"])["a"]
        ask(pandas, "delete_frame", frame_id=made["frame_id"])
        if dtype in {"int64", "float64", "bool"}:
            assert [float(one) for one in ours] == [
                float({"True": 1, "False": 0}.get(one, one)) for one in theirs
            ]
        else:
            assert ours == cells

    check()


@pytest.mark.parametrize("dtype", ["int64", "Int64", "float64", "float32"])
def test_filters_compare_exactly(pandas: Any, dtype: str) -> None:
    values: Any = INTEGERS if "nt" in dtype else FLOATS
    if dtype == "float32":
        values = st.floats(allow_nan=False, allow_infinity=False, width=32)
    near = st.one_of(INTEGERS, FLOATS)
    compare: dict[str, Callable[[Any, Any], bool]] = {
        "eq": lambda a, b: a == b,
        "ne": lambda a, b: a != b,
        "lt": lambda a, b: a < b,
        "ge": lambda a, b: a >= b,
    }

    @FEW
    @given(st.lists(values, min_size=1, max_size=5), near, st.booleans())
    def check(cells: list[Any], other: Any, beside: bool) -> None:
        value = float(cells[0]) if beside and abs(cells[0]) > 2**53 else other
        made = ask(pandas, "load_frame", columns=[{"name": "a", "dtype": dtype, "values": cells}])["frame_id"]
        for op, holds in compare.items():
            where = [{"column": "a", "op": op, "value": value}]
            kept = ask(pandas, "filter", frame_id=made, where=where, id="kept")
            assert kept["rows"] == sum(holds(cell, value) for cell in cells), (op, value)
            ask(pandas, "delete_frame", frame_id="kept")
        where = [{"column": "a", "op": "in", "value": [value, cells[-1]]}]
        kept = ask(pandas, "filter", frame_id=made, where=where, id="kept")
        assert kept["rows"] == sum(cell in (value, cells[-1]) for cell in cells)
        for frame in ("kept", made):
            ask(pandas, "delete_frame", frame_id=frame)

    check()


@pytest.mark.parametrize(("one", "other"), [("int64", "float64"), ("uint64", "int64"), ("Int64", "Float64")])
def test_a_join_matches_what_is_equal_or_is_refused(pandas: Any, oracle: Any, one: str, other: str) -> None:
    whole = st.sampled_from([0, 1, 2, 3, 2**53 - 1, 2**53, 2**53 + 1, 2**60 + 1, 2**60])
    left_cells = st.lists(whole, min_size=1, max_size=4)
    right_cells = st.lists(whole.map(float) if "loat" in other else whole, min_size=1, max_size=4)

    @FEW
    @given(left_cells, right_cells, st.sampled_from(["inner", "outer", "left"]))
    def check(left: list[Any], right: list[Any], how: str) -> None:
        for name, dtype, cells in (("l", one, left), ("r", other, right)):
            at = {"name": name, "dtype": "int64", "values": list(range(len(cells)))}
            given_ = [{"name": "k", "dtype": dtype, "values": cells}, at]
            ask(pandas, "load_frame", columns=given_, id=name)
        made = ask(pandas, "join", left="l", right="r", on=["k"], how=how, id="j")
        beyond = [cell for cell in (*left, *right) if type(cell) is int and abs(cell) > 2**53]
        if beyond:
            assert isinstance(made, str)
            assert "column 'k'[" in made
            assert any(str(cell) in made for cell in beyond)
        else:
            matched = sum(a == b for a in left for b in right)
            lone = sum(a not in right for a in left) + (
                sum(b not in left for b in right) if how == "outer" else 0
            )
            assert made["rows"] == matched + (lone if how != "inner" else 0)
            assert (
                len(oracle.value("sample:join", {"left": left, "right": right, "how": how})) == made["rows"]
            )
            ask(pandas, "delete_frame", frame_id="j")
        for frame in ("l", "r"):
            ask(pandas, "delete_frame", frame_id=frame)

    check()


def test_a_boolean_joins_no_number(pandas: Any) -> None:
    ask(pandas, "load_frame", columns=[{"name": "k", "dtype": "bool", "values": [True]}], id="l")
    ask(pandas, "load_frame", columns=[{"name": "k", "dtype": "int64", "values": [1]}], id="r")
    assert "a boolean equals no number" in ask(pandas, "join", left="l", right="r", on=["k"])


def test_sums_and_casts_keep_or_refuse(pandas: Any) -> None:
    @FEW
    @given(st.lists(st.tuples(st.integers(0, 1), INTEGERS), min_size=1, max_size=4))
    def check(rows: list[tuple[int, int]]) -> None:
        given_ = [
            {"name": name, "dtype": "int64", "values": [row[at] for row in rows]}
            for at, name in enumerate("gn")
        ]
        ask(pandas, "load_frame", columns=given_, id="f")
        made = ask(
            pandas,
            "group",
            frame_id="f",
            by=["g"],
            aggregate=[{"column": "n", "how": "sum", "as": "s"}],
            id="s",
        )
        sums = [sum(n for g, n in rows if g == key) for key in sorted({g for g, _ in rows})]
        if isinstance(made, str):
            assert "beyond 64 bits" in made
            assert sum(abs(n) for _, n in rows) >= 2**63
        else:
            assert columns(pandas, "s")["s"] == sums
            ask(pandas, "delete_frame", frame_id="s")
        texts = {"name": "t", "dtype": "str", "values": [str(n) for _, n in rows]}
        ask(pandas, "load_frame", columns=[texts], id="t")
        made = ask(pandas, "cast", frame_id="t", dtypes={"t": "float64"}, id="c")
        if isinstance(made, str):
            assert "row" in made
            assert any(int(float(n)) != n for _, n in rows)
        else:
            assert [int(cell) for cell in columns(pandas, "c")["t"]] == [n for _, n in rows]
            ask(pandas, "delete_frame", frame_id="c")
        ordered = ask(pandas, "sort", frame_id="f", by=[{"column": "n"}], id="o")
        assert ordered["rows"] == len(rows)
        assert columns(pandas, "o")["n"] == sorted(n for _, n in rows)
        for frame in ("f", "t", "o"):
            ask(pandas, "delete_frame", frame_id=frame)

    check()


def test_dates_and_durations_are_themselves_or_refused(oracle: Any) -> None:
    """numpy's and pandas' alike: nanoseconds, units, zones; what is missing is never a number."""
    assert oracle.value("sample:times", {"which": "moments"}) == [
        *["2024-02-29T12:30:15.123456789", "2024-02-29", "2024-02", ["2024-02-29T12:30:15.123456789"]],
        *["2024-02-29T12", "2024-02-29T12:30:15.123456789", "2024-07-01T12:00:00+02:00"],
        *[
            "2024-07-01T12:00:00+02:00",
            ["2024-02-29T00:00:00"],
            ["2024-07-01T00:00:00+02:00"],
            ["1900-01-01"],
        ],
    ]
    seconds = [90.0, 90.000000001, 3 * 604_800.0, [1.5], 0.000075, 90.0, 90.000000001, 90.0, [90.0], [0.001]]
    assert oracle.value("sample:times", {"which": "durations"}) == seconds
    assert oracle.value("sample:times", {"which": "half"}) == [
        0.10000000149011612,
        2**63 - 1,
        2**64 - 1,
        True,
        5,
    ]
    for which, text in {
        "nat": "result.a[0]: NaT is no JSON",
        "numpy_nat": "result[1]: NaT",
        "numpy_nat_duration": "result[0]: NaT",
        "series_nat": "result[1]: NaT",
        "years": "a duration in Y has no seconds",
        "no_unit": "a duration in no unit has no seconds",
        "long": "no float holds",
        "wide": "numpy.longdouble can't cross",
    }.items():
        said = oracle.fault("sample:times", {"which": which}).message
        assert text in said, (which, said)
