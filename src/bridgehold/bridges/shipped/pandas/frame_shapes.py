"""New frames from frames: sorted, grouped, joined. Their size is known before they are made."""

from __future__ import annotations

from typing import Any

import pandas as pd
from frame_bounds import check_shape
from frame_filters import column_of

from bridgehold_sdk import InvalidInput

AGGREGATES = (
    *("count", "size", "sum", "mean", "median", "min", "max", "std", "var"),
    *("first", "last", "nunique", "any", "all"),
)


def sort(frame: Any, by: list[dict[str, Any]], missing: str) -> Any:
    """Stable: rows that are equal in every key keep their order."""
    _require(frame, [key["column"] for key in by])
    try:
        return frame.sort_values(
            [key["column"] for key in by],
            ascending=[not key.get("descending", False) for key in by],
            na_position=missing,
            kind="stable",
        )
    except TypeError as error:
        raise InvalidInput(f"these columns can't be ordered: {str(error)[:200]}") from error


def group(frame: Any, by: list[Any], aggregate: list[dict[str, Any]], *, keep_missing: bool) -> Any:
    """One row a group, keys first, then an aggregate a column."""
    _require(frame, by)
    names = [one.get("as") or f"{one['column']}_{one['how']}" for one in aggregate]
    if len({*names, *map(str, by)}) != len(names) + len(by):
        raise InvalidInput("two columns of the result would have the same name; give them one with as")
    grouped = frame.groupby(by, sort=True, dropna=not keep_missing, observed=True)
    made: dict[str, Any] = {}
    for name, one in zip(names, aggregate, strict=True):
        column_of(frame, one["column"])
        try:
            if one["how"] == "size":
                made[name] = grouped.size()
            elif one["column"] in by:  # a key is no longer among the columns of its groups
                made[name] = (
                    frame[one["column"]]
                    .groupby([frame[key] for key in by], dropna=not keep_missing, observed=True)
                    .agg(one["how"])
                )
            else:
                made[name] = grouped[one["column"]].agg(one["how"])
        except (TypeError, ValueError, NotImplementedError) as error:
            raise InvalidInput(f"{one['how']} of {one['column']!r}: {str(error)[:200]}") from error
    if not made:
        return grouped.size().index.to_frame(index=False)
    return pd.DataFrame(made).reset_index()


def join(left: Any, right: Any, options: dict[str, Any]) -> Any:
    """The merged frame. How many rows it gets is counted first: a join can multiply."""
    how = options["how"]
    left_on, right_on = options["left_on"], options["right_on"]
    if how != "cross":
        if not left_on or len(left_on) != len(right_on):
            raise InvalidInput("a join needs on, or left_on and right_on of the same length")
        _require(left, left_on)
        _require(right, right_on)
    rows = len(left) * len(right) if how == "cross" else _joined_rows(left, right, left_on, right_on, how)
    check_shape(rows, len(left.columns) + len(right.columns), "the joined frame")
    keys: dict[str, Any] = {} if how == "cross" else {"left_on": left_on, "right_on": right_on}
    if left_on == right_on and keys:
        keys = {"on": left_on}
    try:
        return left.merge(
            right, how=how, suffixes=tuple(options["suffixes"]), validate=options["validate"], **keys
        )
    except (ValueError, TypeError) as error:  # pandas' MergeError is a ValueError
        raise InvalidInput(f"these frames can't be joined: {str(error)[:300]}") from error


def _joined_rows(left: Any, right: Any, left_on: list[Any], right_on: list[Any], how: str) -> int:
    try:
        first = left.groupby(left_on, dropna=False, observed=True).size()
        second = right.groupby(right_on, dropna=False, observed=True).size()
        names = list(map(str, range(len(left_on))))
        first.index.names = second.index.names = names
        both = pd.merge(
            first.rename("l").reset_index(), second.rename("r").reset_index(), on=names, how="outer"
        )
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"these keys can't be compared: {str(error)[:300]}") from error
    if how in {"left", "inner"}:
        both = both[both["l"].notna()]
    if how in {"right", "inner"}:
        both = both[both["r"].notna()]
    return int((both["l"].fillna(1) * both["r"].fillna(1)).sum())


def _require(frame: Any, names: list[Any]) -> None:
    for name in names:
        column_of(frame, name)
