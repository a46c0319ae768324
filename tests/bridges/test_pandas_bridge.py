"""pandas in a sandbox: what goes in comes out, to the last bit and the last kind of missing."""

from __future__ import annotations

import base64
import json
import struct
from random import Random
from typing import Any

import pytest

from bridgehold.bridges.catalogue import Catalogue
from bridgehold.bridges.frames import CancelFrame
from bridgehold.errors import BridgeholdError

pytestmark = pytest.mark.network
MANIFEST = Catalogue.load().get("pandas")
NAN, INF, MINUS, NA, NAT = ({"$": kind} for kind in ("nan", "inf", "-inf", "NA", "NaT"))


def run(guest: Any, name: str, /, **args: Any) -> Any:
    MANIFEST.check_arguments(name, args)
    return guest.value(f"pandas:{name}", args)


def refused(guest: Any, name: str, /, **args: Any) -> str:
    MANIFEST.check_arguments(name, args)
    fault = guest.fault(f"pandas:{name}", args)
    assert fault.code == "invalid_input", fault
    return str(fault.message)


def cells(guest: Any, frame_id: str) -> dict[Any, list[Any]]:
    frame = run(guest, "page", frame_id=frame_id)["frame"]
    return {column["name"]: column["values"] for column in frame["columns"]}


COLUMNS: list[dict[str, Any]] = [
    {"name": "zulu", "dtype": "int64", "values": [2**63 - 1, -(2**63), 0]},
    {"name": "alpha", "dtype": "uint64", "values": [2**64 - 1, 0, 1]},
    {"name": "int8", "dtype": "int8", "values": [-128, 127, 0]},
    {"name": 7, "dtype": "bool", "values": [True, False, True]},
    {"name": "7", "dtype": "float64", "values": [None, INF, -0.0]},
    {"name": "float32", "dtype": "float32", "values": [0.10000000149011612, MINUS, None]},
    {"name": "float16", "dtype": "float16", "values": [1.5, None, 65504.0]},
    {"name": "Int64", "dtype": "Int64", "values": [9007199254740993, None, -1]},
    {"name": "UInt8", "dtype": "UInt8", "values": [None, 255, 0]},
    {"name": "boolean", "dtype": "boolean", "values": [None, True, False]},
    {"name": "Float64", "dtype": "Float64", "values": [None, NAN, 0.1]},
    {"name": "str", "dtype": "str", "values": ["ä 😀\n", None, ""]},
    {"name": "string", "dtype": "string", "values": ["NA", None, "nan"]},
    {
        "name": "object",
        "dtype": "object",
        "values": [
            None,
            NAN,
            NA,
        ],
    },
    {"name": "mixed", "dtype": "object", "values": [NAT, True, 1]},
    {
        "name": "values",
        "dtype": "object",
        "values": [
            {"$": "int", "value": str(2**70)},
            {"$": "bytes", "value": "AP8="},
            {"$": "decimal", "value": "0.10"},
        ],
    },
    {
        "name": "category",
        "dtype": "category",
        "ordered": True,
        "categories": {"dtype": "str", "values": ["low", "unused", "high"]},
        "values": ["high", None, "low"],
    },
    {
        "name": "numbers",
        "dtype": "category",
        "ordered": False,
        "categories": {"dtype": "int64", "values": [3, 1]},
        "values": [1, 3, 3],
    },
    {
        "name": "nanoseconds",
        "dtype": "datetime64[ns]",
        "values": ["2024-02-29T01:02:03.123456789", None, "1677-09-22T00:00:00"],
    },
    {
        "name": "seconds",
        "dtype": "datetime64[s]",
        "values": ["0001-01-01T00:00:00", "9999-12-31T23:59:59", None],
    },
    {
        "name": "zone",
        "dtype": "datetime64[us, Europe/Berlin]",
        # The same hour of the wall twice: summer's and winter's.
        "values": ["2024-10-27T02:30:00+02:00", "2024-10-27T02:30:00+01:00", None],
    },
    {
        "name": "offset",
        "dtype": "datetime64[ms, UTC+05:30]",
        "values": ["2024-01-01T00:00:00.001000+05:30", None, None],
    },
    {"name": "span", "dtype": "timedelta64[ns]", "values": [-1, None, 2**62]},
    {"name": "long", "dtype": "timedelta64[s]", "values": [2**40, 0, None]},
    {"name": "period", "dtype": "period[M]", "values": ["2024-01", None, "1999-12"]},
]
NULLS = {
    "int64": "",
    "float64": "nan",
    "Int64": "NA",
    "boolean": "NA",
    "Float64": "NA",
    "str": "nan",
    "string": "NA",
    "object": "None",
    "category": "nan",
    "datetime64[ns]": "NaT",
    "timedelta64[s]": "NaT",
    "period[M]": "NaT",
}


def spelled(value: dict[str, Any], **changed: Any) -> str:
    return json.dumps({**value, **changed}, sort_keys=True)


def test_every_dtype_comes_out_as_it_went_in(pandas: Any) -> None:
    index = {
        "columns": [
            {"name": "when", "dtype": "datetime64[us, UTC]", "values": ["2024-01-01T00:00:00+00:00"] * 3}
        ]
    }
    made = run(pandas, "load_frame", columns=COLUMNS, index=index, id="all")
    assert made["dtypes"] == [[column["name"], column["dtype"]] for column in COLUMNS]
    got = run(pandas, "page", frame_id="all")
    assert (got["rows"], got["truncated"], got["next_offset"]) == (3, False, None)
    for column, sent in zip(got["frame"]["columns"], COLUMNS, strict=True):
        assert spelled(column, null=None) == spelled(sent, null=None)  # -0.0 and 0.0 are spelled apart
        assert column["null"] == NULLS.get(column["dtype"], column["null"])
    level = got["frame"]["index"]["columns"][0]
    assert {key: level[key] for key in ("name", "dtype", "values")} == index["columns"][0]
    # And once more round: what came out makes the same again.
    run(pandas, "load_frame", columns=got["frame"]["columns"], index=got["frame"]["index"], id="again")
    again = run(pandas, "page", frame_id="again")["frame"]
    assert spelled(again) == spelled(got["frame"])


def test_kinds_of_missing_are_counted_apart(pandas: Any) -> None:
    run(pandas, "load_frame", columns=COLUMNS, id="all")
    facts = {column["name"]: column for column in run(pandas, "describe_frame", frame_id="all")["columns"]}
    assert facts["object"]["missing"] == {"None": 1, "nan": 1, "NA": 1}
    assert facts["mixed"]["missing"] == {"NaT": 1}
    assert facts["Float64"]["missing"] == {"nan": 1, "NA": 1}
    assert facts["7"]["missing"] == {"nan": 1}
    assert facts["zone"]["missing"] == {"NaT": 1}
    assert facts["string"]["missing"] == {"NA": 1}
    assert facts["zulu"]["missing"] == {}
    assert (facts["category"]["categories"], facts["category"]["ordered"]) == (3, True)


@pytest.mark.parametrize(
    ("dtype", "values", "text"),
    [
        ("int8", [128], "beyond int8"),
        ("int64", [1.5], "float given"),
        ("int64", [True], "bool given"),
        ("int64", [None], "no missing values"),
        ("float64", [9007199254740993], "holds exactly"),
        ("float64", ["1"], "number"),
        ("str", [1], "text expected"),
        ("str", [NA], "text expected"),
        ("datetime64[s]", ["2024-01-01T00:00:00.5"], "unit s"),
        ("datetime64[ns]", ["2024-01-01T00:00:00+00:00"], "no offset"),
        ("datetime64[ns, UTC]", ["2024-01-01T00:00:00"], "an offset"),
        ("datetime64[ns]", ["1500-01-01"], "unit ns"),
        ("datetime64[ns, Nowhere/City]", ["2024-01-01T00:00:00Z"], "is none of"),
        ("timedelta64[s]", ["1ms"], "holds"),
        ("object", [[1]], "one value"),
        ("object", [{"a": 1}], "kinds:"),
        ("object", [{"$": "pickle", "value": "gASV"}], "kinds:"),
        ("int64[pyarrow]", [1], "not carried"),
        ("Sparse[int]", [1], ""),
        ("O", [1], "write dtype"),
    ],
)
def test_a_cell_that_its_dtype_cannot_hold_is_refused(
    pandas: Any, dtype: str, values: list[Any], text: str
) -> None:
    assert text in refused(pandas, "load_frame", columns=[{"name": "a", "dtype": dtype, "values": values}])
    assert run(pandas, "list_frames")["total_count"] == 0


def test_records_and_csv(pandas: Any) -> None:
    records = [{"a": 1, "b": "x"}, {"a": None, "b": None, "c": 0.5}, {"b": "y", "c": NAN, "d": True}]
    made = run(pandas, "load_frame", records=records, id="r")
    assert made["dtypes"] == [["a", "Int64"], ["b", "str"], ["c", "Float64"], ["d", "boolean"]]
    assert made["absent"] == {"a": 1, "c": 1, "d": 2}
    assert cells(pandas, "r")["c"] == [None, 0.5, NAN]
    made = run(pandas, "load_frame", records=[{"n": 1}, {"n": 2}], dtypes={"n": "float32", "m": "Int8"})
    assert made["dtypes"] == [["n", "float32"], ["m", "Int8"]]
    text = "when;n;word\n2024-01-01 10:00;1,5;NA\n2024-01-02 11:00;;x\n2024-01-03 12:00;3,0;y\n"
    options = {"separator": ";", "decimal": ",", "dates": ["when"], "missing": [""], "max_rows": 2}
    made = run(pandas, "load_frame", csv=text, options=options, id="c")
    assert (made["rows"], made["truncated"]) == (2, True)
    assert cells(pandas, "c")["word"] == ["NA", "x"]
    assert cells(pandas, "c")["n"] == [1.5, None]
    assert "dates" in refused(pandas, "load_frame", csv=text, dtypes={"when": "datetime64[ns]"})
    assert "can't be read" in refused(pandas, "load_frame", csv='a,b\n"1,2')
    assert "exactly" not in refused(pandas, "load_frame")
    assert "one of" in refused(pandas, "load_frame", records=[], csv="a\n1\n")


def test_csv_text_is_never_a_place(pandas: Any) -> None:
    made = run(pandas, "load_frame", csv="/etc/passwd", id="p")
    assert (made["rows"], made["dtypes"][0][0]) == (0, "/etc/passwd")
    made = run(pandas, "load_frame", csv="file:///etc/passwd", id="f")
    assert made["rows"] == 0


PEOPLE = [
    {"name": "Ann", "age": 41, "city": "Rome", "score": 1.5},
    {"name": "Bob", "age": 23, "city": "Oslo", "score": NAN},
    {"name": "Cid", "age": None, "city": "Rome", "score": 3.0},
    {"name": "Dee", "age": 23, "city": None, "score": -1.0},
]


@pytest.mark.parametrize(
    ("where", "match", "left"),
    [
        ([{"column": "age", "op": "lt", "value": 40.5}], "all", ["Bob", "Dee"]),
        ([{"column": "age", "op": "ne", "value": 23}], "all", ["Ann"]),
        ([{"column": "age", "op": "is_missing"}], "all", ["Cid"]),
        ([{"column": "city", "op": "in", "value": ["Oslo", "Rome"]}], "all", ["Ann", "Bob", "Cid"]),
        ([{"column": "city", "op": "not_in", "value": ["Oslo"]}], "all", ["Ann", "Cid"]),
        ([{"column": "score", "op": "between", "value": [-1, 1.5]}], "all", ["Ann", "Dee"]),
        (
            [
                {"column": "name", "op": "contains", "value": "e"},
                {"column": "city", "op": "eq", "value": "Oslo"},
            ],
            "any",
            ["Bob", "Dee"],
        ),
        ([{"column": "name", "op": "starts_with", "value": "."}], "all", []),
        (
            [{"column": "score", "op": "not_missing"}, {"column": "age", "op": "not_missing"}],
            "all",
            ["Ann", "Dee"],
        ),
    ],
)
def test_filters(pandas: Any, where: list[dict[str, Any]], match: str, left: list[str]) -> None:
    run(pandas, "load_frame", records=PEOPLE, id="p")
    made = run(pandas, "filter", frame_id="p", where=where, match=match, id="f")
    assert cells(pandas, "f")["name"] == left
    assert made["dropped_rows"] == 4 - len(left)


def test_filters_are_typed_and_evaluate_nothing(pandas: Any) -> None:
    run(pandas, "load_frame", records=PEOPLE, id="p")
    for condition, text in (
        ({"column": "age", "op": "eq", "value": "23"}, "number expected"),
        ({"column": "name", "op": "eq", "value": 23}, "text expected"),
        ({"column": "__import__('os')", "op": "eq", "value": 1}, "no column"),
        ({"column": "name", "op": "in", "value": "Ann"}, "list"),
        ({"column": "name", "op": "eq"}, "needs a value"),
        ({"column": "age", "op": "eq", "value": None}, "is_missing"),
        ({"column": "age", "op": "contains", "value": "2"}, "for text"),
    ):
        assert text in refused(pandas, "filter", frame_id="p", where=[condition])
    with pytest.raises(BridgeholdError):
        MANIFEST.check_arguments(
            "filter", {"frame_id": "p", "where": [{"column": "age", "op": "eval", "value": "1"}]}
        )


def test_sort_select_group_and_join(pandas: Any) -> None:
    run(pandas, "load_frame", records=PEOPLE, id="p")
    run(
        pandas,
        "sort",
        frame_id="p",
        by=[{"column": "age"}, {"column": "name", "descending": True}],
        missing="first",
        id="s",
    )
    assert cells(pandas, "s")["name"] == ["Cid", "Dee", "Bob", "Ann"]
    index = run(pandas, "page", frame_id="s")["frame"]["index"]
    assert index["columns"][0]["values"] == [2, 3, 1, 0]
    made = run(pandas, "select", frame_id="p", columns=["score", "name"], rename={"name": "who"}, id="c")
    assert made["dtypes"] == [["score", "float64"], ["who", "str"]]
    aggregate = [
        {"column": "age", "how": "mean", "as": "mean_age"},
        {"column": "name", "how": "count"},
        {"column": "city", "how": "size", "as": "n"},
    ]
    run(pandas, "group", frame_id="p", by=["city"], aggregate=aggregate, id="g")
    assert cells(pandas, "g") == {
        "city": ["Oslo", "Rome", None],
        "mean_age": [23.0, 41.0, 23.0],
        "name_count": [1, 2, 1],
        "n": [1, 2, 1],
    }
    run(
        pandas, "load_frame", records=[{"city": "Rome", "land": "IT"}, {"city": "Riga", "land": "LV"}], id="l"
    )
    run(pandas, "join", left="p", right="l", on=["city"], how="outer", id="j")
    assert sorted(map(str, cells(pandas, "j")["land"])) == ["IT", "IT", "LV", "None", "None"]
    assert "can't be joined" in refused(
        pandas, "join", left="p", right="l", on=["city"], validate="one_to_one"
    )
    assert "no column" in refused(pandas, "join", left="p", right="l", left_on=["name"], right_on=["nothing"])
    run(pandas, "cast", frame_id="p", dtypes={"age": "Float64", "city": "category"}, id="k")
    assert "age" in refused(pandas, "cast", frame_id="p", dtypes={"age": "int64"})
    run(pandas, "cast", frame_id="p", dtypes={"age": "str"}, id="text")
    run(pandas, "delete_frame", frame_id="text")
    run(pandas, "append", frames=["p", "p"], id="twice")
    assert cells(pandas, "twice")["age"] == [41, 23, None, 23] * 2
    assert "other columns" in refused(pandas, "append", frames=["p", "l"])
    listed = run(pandas, "list_frames")
    assert [frame["frame_id"] for frame in listed["frames"]] == ["p", "s", "c", "g", "l", "j", "k", "twice"]
    assert run(pandas, "delete_frame", frame_id="p")["status"] == "deleted"
    assert pandas.fault("pandas:head", {"frame_id": "p"}).code == "not_found"


def test_a_join_that_would_multiply_is_refused_before_it_is_made(pandas: Any) -> None:
    run(pandas, "load_frame", columns=[{"name": "k", "dtype": "int8", "values": [1] * 20_000}], id="a")
    before = pandas.value("common:get_stats")["memory_usage"]["peak"]
    assert "400000000 rows" in refused(pandas, "join", left="a", right="a", on=["k"])
    assert "400000000 rows" in refused(pandas, "join", left="a", right="a", how="cross")
    assert pandas.value("common:get_stats")["memory_usage"]["peak"] < before + (64 << 20)


def test_pages_are_bounded_and_say_so(pandas: Any) -> None:
    values = [f"{number:06d}" + "x" * 94 for number in range(5000)]
    run(pandas, "load_frame", columns=[{"name": "t", "dtype": "str", "values": values}], id="t")
    got, offset, pages = [], 0, 0
    while offset is not None:
        page = run(
            pandas, "page", frame_id="t", offset=offset, limit=5000, max_bytes=100_000, layout="records"
        )
        got += [record["t"] for record in page["records"]]
        pages += 1
        assert (page["truncated"], page["truncated_by"]) == (
            (True, "bytes") if page["next_offset"] else (False, "")
        )
        offset = page["next_offset"]
    assert (got, pages) == (values, 6)
    assert run(pandas, "head", frame_id="t", rows=2)["next_offset"] == 2
    wide = [{"name": f"c{n}", "dtype": "int8", "values": [1] * 300} for n in range(1000)]
    run(pandas, "load_frame", columns=wide, id="w")
    page = run(pandas, "page", frame_id="w", limit=300)
    assert (page["rows"], page["truncated_by"], page["next_offset"]) == (200, "cells", 200)
    run(pandas, "load_frame", columns=[{"name": "t", "dtype": "str", "values": ["y" * 5000]}], id="long")
    assert "fewer columns" in refused(pandas, "page", frame_id="long", max_bytes=1024)


def test_a_whole_frame_in_chunks(pandas_alone: Any) -> None:
    pandas = pandas_alone
    numbers = list(range(25_000))
    run(pandas, "load_frame", columns=[{"name": "n", "dtype": "int64", "values": numbers}], id="n")
    call = pandas.start("pandas:export", {"frame_id": "n"})
    done = pandas.reply(call).result
    chunks = [chunk.data for chunk in pandas.chunks(call)]
    assert (done["rows"], done["chunks"], [chunk["rows"] for chunk in chunks]) == (
        25_000,
        3,
        [10_000, 10_000, 5_000],
    )
    assert [value for chunk in chunks for value in chunk["frame"]["columns"][0]["values"]] == numbers
    call = pandas.start("pandas:export", {"frame_id": "n", "format": "csv"})
    done = pandas.reply(call).result
    text = "".join(chunk.data["text"] for chunk in pandas.chunks(call))
    assert text == "n\n" + "".join(f"{number}\n" for number in numbers)
    assert done["bytes"] == len(text)
    call = pandas.start("pandas:export", {"frame_id": "n", "format": "csv"})
    pandas.send(CancelFrame(id=call))
    assert pandas.reply(call).code in {"cancelled", None}
    run(pandas, "load_frame", columns=[{"name": "n", "dtype": "int64", "values": []}], id="empty")
    call = pandas.start("pandas:export", {"frame_id": "empty", "format": "csv"})
    assert pandas.reply(call).result["rows"] == 0
    assert [chunk.data for chunk in pandas.chunks(call)] == [{"text": "n\n"}]


def test_arrays_by_their_bytes(pandas: Any) -> None:
    payload = struct.pack("<4d", 1.5, float("nan"), float("-inf"), -0.0)
    payload = payload[:8] + b"\x01\x00\x00\x00\x00\x00\xf8\x7f" + payload[16:]  # a NaN with a payload
    data = base64.b64encode(payload).decode()
    made = run(pandas, "load_array", dtype="<f8", shape=[2, 2], data=data, order="F", id="a")
    assert (made["dtype"], made["shape"], made["bytes"]) == ("<f8", [2, 2], 32)
    got = run(pandas, "get_array", array_id="a")
    assert (got["data"], got["order"], got["shape"], got["truncated"]) == (data, "F", [2, 2], False)
    facts = run(pandas, "describe_array", array_id="a")
    assert (facts["nan"], facts["infinite"], facts["max"]) == (1, 1, 1.5)
    part = run(pandas, "get_array", array_id="a", offset=1, limit=1)
    assert (part["shape"], part["truncated"]) == ([1, 2], True)
    for dtype, raw, shape in (
        (">i2", b"\x01\x02\x03\x04", [2]),
        ("|b1", b"\x00\x01", [2]),
        ("<c8", struct.pack("<2f", 1, 2), [1]),
        ("<M8[ns]", struct.pack("<q", -(2**63)), [1]),
        ("<U2", "ä😀".encode("utf-32-le"), [1]),
        ("<f2", b"\x00\x7e", []),
        ("<f4", b"", [0, 3]),
    ):
        sent = base64.b64encode(raw).decode()
        array_id = run(pandas, "load_array", dtype=dtype, shape=shape, data=sent)["array_id"]
        got = run(pandas, "get_array", array_id=array_id)
        assert (got["dtype"], got["shape"], got["data"]) == (dtype, shape, sent)
    for dtype, shape, raw, text in (
        ("O", [1], b"12345678", "not carried"),
        ("<f8", [2], b"12345678", "8 bytes given, 16"),
        ("<f8", [2, 10**9], b"", "at most"),
        ("i4,f8", [1], b"1" * 12, "not carried"),
        ("nothing", [1], b"1", "none of numpy's"),
    ):
        sent = base64.b64encode(raw).decode()
        assert text in refused(pandas, "load_array", dtype=dtype, shape=shape, data=sent)
    assert "base64" in refused(pandas, "load_array", dtype="u1", shape=[1], data="#")
    made = run(pandas, "array_to_frame", array_id="a", columns=["x", "y"], id="f")
    assert cells(pandas, "f") == {"x": [1.5, None], "y": [MINUS, -0.0]}
    run(pandas, "frame_to_array", frame_id="f", dtype="<f8", id="b")
    assert run(pandas, "describe_array", array_id="b")["nan"] == 1
    assert "missing" in refused(pandas, "frame_to_array", frame_id="f", dtype="<i8")
    assert run(pandas, "list_arrays")["total_count"] == 9
    assert run(pandas, "delete_array", array_id="a")["status"] == "deleted"
    stats = pandas.value("common:get_stats")
    assert (stats["arrays_count"], stats["frames_count"]) == (8, 1)
    assert stats["bytes"] > 0


@pytest.mark.parametrize(
    ("dtype", "values", "to", "fits"),
    [
        ("int64", [300], "int8", False),
        ("int64", [100], "int8", True),
        ("int64", [-1], "uint64", False),
        ("uint64", [2**64 - 1], "int64", False),
        ("int64", [2**53 + 1], "float64", False),
        ("int64", [2**53], "float64", True),
        ("float64", [1.5], "int64", False),
        ("float64", [2.0, None], "Int64", True),
        ("float64", [0.1], "float32", False),
        ("float64", [INF], "Float64", True),
        ("Int64", [None], "int64", False),
        ("int64", [2], "bool", False),
        ("object", [1.5], "int64", False),
        ("object", [1, None], "Int64", True),
        ("str", ["7", "08"], "int64", True),
        ("str", ["x"], "int64", False),
        ("datetime64[ns]", ["2024-01-01T00:00:00.000000001"], "datetime64[us]", False),
        ("datetime64[ns]", ["2024-01-01T00:00:00.000001"], "datetime64[us]", True),
        ("timedelta64[ns]", [1], "timedelta64[s]", False),
        ("str", ["a", None], "category", True),
    ],
)
def test_a_cast_that_would_change_a_cell_is_refused(
    pandas: Any, dtype: str, values: list[Any], to: str, fits: bool
) -> None:
    run(pandas, "load_frame", columns=[{"name": "a", "dtype": dtype, "values": values}], id="f")
    if fits:
        assert run(pandas, "cast", frame_id="f", dtypes={"a": to})["dtypes"] == [["a", to]]
    else:
        assert "column 'a'" in refused(pandas, "cast", frame_id="f", dtypes={"a": to})
    if to in {"int8", "int64", "uint64", "float64", "float32"} and dtype != "str":
        if fits:
            run(pandas, "frame_to_array", frame_id="f", dtype=to)
        else:
            assert "column 'a'" in refused(pandas, "frame_to_array", frame_id="f", dtype=to)


def test_filters_on_every_kind_of_column(pandas: Any) -> None:
    run(pandas, "load_frame", columns=COLUMNS, id="all")
    for column, op, value, rows in (
        ("zulu", "eq", 2**63 - 1, 1),
        ("alpha", "in", [2**64 - 1, 1], 2),
        ("Int64", "eq", 9007199254740993, 1),
        ("Int64", "in", [9007199254740993], 1),
        ("Int64", "ge", -1, 2),
        (7, "eq", True, 2),
        ("boolean", "eq", False, 1),
        ("7", "gt", 0, 1),
        ("float32", "lt", 0, 1),
        ("category", "ge", "low", 2),
        ("category", "gt", "low", 1),
        ("numbers", "eq", 3, 2),
        ("nanoseconds", "eq", "2024-02-29T01:02:03.123456789", 1),
        ("seconds", "lt", "2000-01-01", 1),
        ("zone", "lt", "2024-10-27T01:00:00+00:00", 1),
        ("zone", "in", ["2024-10-27T01:30:00+00:00"], 1),
        ("span", "lt", 0, 1),
        ("long", "eq", 2**40, 1),
        ("period", "lt", "2000-01", 1),
        ("mixed", "eq", 1, 2),
        ("string", "eq", "nan", 1),
    ):
        where = [{"column": column, "op": op, "value": value}]
        made = run(pandas, "filter", frame_id="all", where=where)
        assert made["rows"] == rows, where


def test_an_index_of_several_levels_keeps_its_cells_or_is_refused(pandas: Any) -> None:
    first = {"name": "n", "dtype": "int64", "values": [1, 2]}
    for values, fits in (
        ([NAN, "a"], True),
        ([None, "a"], False),
        ([NA, "a"], False),
        ([True, 1], False),
        (["a", "b"], True),
    ):
        level = {"name": None, "dtype": "object", "values": values}
        if fits:
            made = run(pandas, "load_frame", columns=[first], index={"columns": [first, level]})
            back = run(pandas, "page", frame_id=made["frame_id"])["frame"]["index"]["columns"][1]
            assert spelled(back, null=0) == spelled(level, null=0)
        else:
            assert "apart" in refused(
                pandas, "load_frame", columns=[first], index={"columns": [first, level]}
            )
        run(pandas, "load_frame", columns=[first], index={"columns": [level]})  # one level keeps them all


@pytest.mark.parametrize(
    ("dtype", "values", "fits"),
    [
        ("object", ["b", "a"], True),
        ("object", [1, "1", 1.5], True),
        ("object", [True, 1], False),  # the same to pandas
        ("object", [None, "a"], False),
        ("string", ["b", "a"], True),
        ("float64", [0.1, INF], True),
        ("int8", [3, 1], True),
        ("bool", [True, False], True),
        ("datetime64[us, Europe/Berlin]", ["2024-10-27T02:30:00+02:00", "2024-10-27T02:30:00+01:00"], True),
        ("timedelta64[s]", [5, 1], True),
        ("str", ["a", "a"], False),
        ("str", ["a", None], False),
    ],
)
def test_categories_of_every_dtype(pandas: Any, dtype: str, values: list[Any], fits: bool) -> None:
    categories = {"dtype": dtype, "values": values}
    column = {"name": "c", "dtype": "category", "ordered": False, "categories": categories}
    column["values"] = [*reversed(values), None]
    if fits:
        run(pandas, "load_frame", columns=[column], id="f")
        back = run(pandas, "page", frame_id="f")["frame"]["columns"][0]
        assert spelled(back, null=0) == spelled(column, null=0)
    else:
        assert "column 'c'" in refused(pandas, "load_frame", columns=[column])


def test_random_frames_survive(pandas: Any) -> None:
    """Cells of every dtype at random, its edges among them; the same seed gives the same frames."""
    random = Random(17)
    pools: dict[str, list[Any]] = {}
    for column in COLUMNS:
        if column["dtype"] != "category":
            pools.setdefault(column["dtype"], []).extend(column["values"])
    pools["float64"] += [5e-324, 1.7976931348623157e308, 0.1 + 0.2, 1e-7]
    pools["str"] += ["\x00", "\u2028", "None", '"', "\r\n", "e\u0301"]
    pools["object"] += ["text", 1.5, False, INF, {"$": "date", "value": "2024-01-01"}]
    for number in range(40):
        rows = random.randrange(6)
        dtypes = [random.choice(sorted(pools)) for _ in range(random.randrange(1, 6))]
        columns = [
            {"name": f"c{at}", "dtype": dtype, "values": random.choices(pools[dtype], k=rows)}
            for at, dtype in enumerate(dtypes)
        ]
        if "float16" in dtypes:
            assert "float16" in refused(pandas, "load_frame", columns=[], index={"columns": columns})
            columns = [column for column in columns if column["dtype"] != "float16"]
        if not columns:
            continue
        index = {"columns": [{**columns[0], "name": None}, {**columns[-1], "name": "level"}]}
        index = {"range": {"start": 5, "stop": 5 + 3 * rows, "step": 3}, "name": 0} if number % 2 else index
        if "object" in [level["dtype"] for level in index.get("columns", [])]:
            index = {"columns": index["columns"][:1]}
        frame_id = run(pandas, "load_frame", columns=columns, index=index)["frame_id"]
        got = run(pandas, "page", frame_id=frame_id)["frame"]
        for sent, back in zip(columns, got["columns"], strict=True):
            assert spelled(sent, null=0) == spelled(back, null=0)
        for sent, back in zip(index.get("columns", []), got["index"].get("columns", []), strict=True):
            assert spelled(sent, null=0) == spelled(back, null=0)
        assert got["index"].get("range") == index.get("range")
        run(pandas, "delete_frame", frame_id=frame_id)
