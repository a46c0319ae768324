"""New frames from frames: sorted, grouped, joined. Their size is known before they are made."""

from __future__ import annotations

from typing import Any

import pandas as pd
from frame_bounds import check_shape
from frame_filters import column_of

from bridgehold_sdk import InvalidInput

EXACT = 2**53
"""Up to here a double holds each integer."""


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
            if one["how"] == "sum":
                _require_sums(frame[one["column"]], name)
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


def _require_sums(series: Any, name: str) -> None:
    """Sums of integers wrap without a word; here they fit, whichever rows come together."""
    kind = _number_kind(series.dtype)
    if kind not in {"i", "u"}:
        return
    cells = [cell for cell in series.tolist() if cell is not pd.NA]
    up, down = sum(cell for cell in cells if cell > 0), sum(cell for cell in cells if cell < 0)
    if up >= 2 ** (64 if kind == "u" else 63) or down < -(2**63):
        raise InvalidInput(f"{name!r}: a sum could lie beyond 64 bits; cast the column to float64 first")


def join(left: Any, right: Any, options: dict[str, Any]) -> Any:
    """The merged frame. How many rows it gets is counted first: a join can multiply."""
    how = options["how"]
    left_on, right_on = options["left_on"], options["right_on"]
    if how != "cross":
        if not left_on or len(left_on) != len(right_on):
            raise InvalidInput("a join needs on, or left_on and right_on of the same length")
        for names in zip(left_on, right_on, strict=True):
            _require_comparable(column_of(left, names[0]), column_of(right, names[1]), names)
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


def _require_comparable(left: Any, right: Any, names: tuple[Any, Any]) -> None:
    """Keys of two kinds of number are compared as floats: each has to be one, or unequal keys would match."""
    kinds = [_number_kind(series.dtype) for series in (left, right)]
    if "b" in kinds and kinds[0] != kinds[1] and all(kinds):
        raise InvalidInput(f"{names[0]!r} and {names[1]!r}: a boolean equals no number; cast one of them")
    if not all(kinds) or left.dtype == right.dtype or (kinds[0] == kinds[1] and kinds[0] in "iub"):
        return
    for series, other, name, kind in zip((left, right), (right, left), names, kinds, strict=True):
        for row, cell in enumerate(series.tolist() if kind in "iu" else ()):
            if cell is not pd.NA and abs(cell) > EXACT:
                raise InvalidInput(
                    f"column {name!r}[{row}]: {cell} is compared with {other.dtype}, and no float tells it "
                    "from its neighbours; cast one of the two columns"
                )


def _number_kind(dtype: Any) -> str:
    """``i``, ``u``, ``f`` or ``b``; empty for what is no number."""
    kind = str(getattr(dtype, "kind", ""))
    return kind if kind and kind in "iufb" else ""


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
