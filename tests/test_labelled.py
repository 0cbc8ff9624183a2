"""Tests of `search.data.labelled`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.config import ClassifyData
from search.data.labelled import (
    Labelled,
    check_labels,
    cut,
    read_labelled,
    read_unlabelled,
    without_missing,
)
from search.errors import ConfigError, DataError


def read(path: Path, channels: tuple[str, ...] | None = None, **keys: object) -> Labelled:
    """Reads a table whose columns are named as in `rows`."""
    columns = {"task": "classify", "path": path, "series": "id", "label": "kind"}
    train = channels and Labelled(path, [], [], [], channels)
    return read_labelled(path, ClassifyData.model_validate(columns | keys), train or None)


def table(path: Path, text: str, **keys: object) -> Labelled:
    """Writes a table, reads it, and does what a study does about labels and missing values."""
    path.write_text(text)
    got = without_missing(read(path, **keys), str(keys.get("missing", "error")))
    check_labels(got, None)
    return got


def read_of(folder: Path, text: str) -> Labelled:
    """Writes a table and reads it."""
    (folder / "long.csv").write_text(text)
    return read(folder / "long.csv")


def rows(kinds: str = "abab" * 3, extra: str = "") -> str:
    """A table of one series a kind, three steps each, the rows interleaved."""
    head = "id,kind,t,x,y\n"
    body = [
        f"s{at},{kind},{t},{at}.{t},{at + t}" for t in range(3) for at, kind in enumerate(kinds)
    ]
    return head + "\n".join(body) + "\n" + extra


def labelled(counts: list[int], seed: int) -> Labelled:
    """Returns random series of so many a class, the classes one after the other."""
    rng = np.random.default_rng(seed)
    labels = [str(at) for at, count in enumerate(counts) for _ in range(count)]
    values = [rng.normal(size=(3, 1)) for _ in labels]
    return Labelled(Path("toy"), values, labels, [""] * len(labels), ("x",))


def test_long_form(tmp_path: Path) -> None:
    """Interleaved rows make whole series; all other numeric columns are channels."""
    got = table(tmp_path / "long.csv", rows(), time="t")
    assert got.channels == ("x", "y")
    assert got.labels == list("abab" * 3)
    assert got.places[1] == "series 's1'"
    for at, values in enumerate(got.values):
        np.testing.assert_allclose(values, [[at + t / 10, at + t] for t in range(3)])
    assert table(tmp_path / "long.csv", rows(), features="y").channels == ("y",)


def test_rows_of_many_series_have_their_own_label(tmp_path: Path) -> None:
    """A series has the label of its rows, wherever in the file they and its neighbours' stand."""
    assert table(tmp_path / "long.csv", rows("aabbba")).labels == list("aabbba")
    assert table(tmp_path / "long.csv", rows("aabbba"), time="t").labels == list("aabbba")


def test_time_orders_rows(tmp_path: Path) -> None:
    """Rows in any order, stamped with numbers or dates, make the same series."""
    ordered = table(tmp_path / "a.csv", rows(), features=["x", "y"])
    head, *body = rows().splitlines()
    (tmp_path / "b.csv").write_text("\n".join([head, *body[::-1]]))
    frame = pd.read_csv(tmp_path / "b.csv")
    frame["t"] = pd.Timestamp("2020-01-01", tz="UTC") + pd.to_timedelta(frame["t"], "D")
    frame.to_parquet(tmp_path / "c.parquet")
    frame.to_csv(tmp_path / "d.csv", index=False)
    for name in ("b.csv", "c.parquet", "d.csv"):
        got = read(tmp_path / name, time="t", features=["x", "y"])
        # The series themselves are in the order in which the file first names them.
        for values, expected in zip(got.values[::-1], ordered.values, strict=True):
            np.testing.assert_array_equal(values, expected)
        assert got.labels[::-1] == ordered.labels


@pytest.mark.parametrize(
    "words", [("1", "2"), ("1.0", "2.0"), ("01", "1"), ("NA", "none"), ("1e3", "True"), ("1", "?")]
)
def test_names_are_read_as_written(tmp_path: Path, words: tuple[str, str]) -> None:
    """Labels and series of a CSV are the very text of the file, numbers or not."""
    text = rows().replace(",a,", f",{words[0]},").replace(",b,", f",{words[1]},")
    assert table(tmp_path / "long.csv", text).labels == [*words] * 6
    text = rows("ab").replace("s0,", f"{words[0]},").replace("s1,", f"{words[1]},")
    assert read_of(tmp_path, text).places == [f"series '{word}'" for word in words]


def test_names_for_a_model_are_read_as_written(tmp_path: Path) -> None:
    """What an exported model reads keeps its names, so that they come back as they were."""
    path, columns = tmp_path / "long.csv", {"task": "classify", "series": "id", "label": "kind"}
    path.write_text("id,kind,x\n007,01,1\n7,02,2\n")
    data = ClassifyData.model_validate(columns | {"path": path})
    for source in (path, pd.read_csv(path, dtype=str)):
        got = read_unlabelled(source, data, ("x",), None)
        assert (got.labels, got.places) == (["01", "02"], ["series '007'", "series '7'"])


def test_labels_that_are_there_in_part(tmp_path: Path) -> None:
    """Where nobody need know the classes, a series that has its label in some rows has none."""
    path = tmp_path / "t.csv"
    path.write_text("id,kind,x\na,,1\na,up,2\nb,up,1\nb,up,2\n")
    columns = {"task": "classify", "path": path, "series": "id", "label": "kind"}
    got = read_unlabelled(path, ClassifyData.model_validate(columns), ("x",), None)
    assert got.labels == ["", "up"]


def test_series_and_label_in_one_column(tmp_path: Path) -> None:
    """A study that gives one column for both is told so."""
    with pytest.raises(ConfigError, match="series and label are the same column, 'kind'"):
        table(tmp_path / "t.csv", "id,kind,x\na,up,1\n", series="kind")


@pytest.mark.parametrize("kind", ["int64", "Int64", "float64", "object", "str", "category"])
def test_whole_numbers_as_names_in_parquet(tmp_path: Path, kind: str) -> None:
    """A label 1 of a Parquet file is written 1, however it is stored."""
    frame = pd.DataFrame({"id": range(6), "kind": pd.Series([1, 2] * 3).astype(kind), "x": 1.5})
    frame.to_parquet(tmp_path / "long.parquet")
    assert read(tmp_path / "long.parquet").labels == ["1", "2"] * 3


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize("kind", ["object", "str", "string", "category"])
def test_a_blank_name_is_none(tmp_path: Path, kind: str, blank: str) -> None:
    """A label or series of nothing but blanks is missing, in Parquet as in a CSV."""
    frame = pd.DataFrame({"id": list("abcdef"), "kind": ["a", "b"] * 3, "x": 1.5})
    for key in ("id", "kind"):
        wrong = frame.assign(**{key: frame[key].where(frame.index != 3, blank).astype(kind)})
        wrong.to_parquet(tmp_path / "long.parquet")
        with pytest.raises(DataError, match=f"column '{key}' is empty in row 4"):
            read(tmp_path / "long.parquet")


def test_no_lists_as_names(tmp_path: Path) -> None:
    """A column of lists can be neither label nor series, and is in nobody's way."""
    frame = pd.DataFrame({"id": [0, 1], "kind": ["a", "b"], "x": 1.5, "more": [[1], [2]]})
    frame.to_parquet(tmp_path / "long.parquet")
    assert read(tmp_path / "long.parquet").channels == ("x",)
    for key in ("label", "series"):
        with pytest.raises(DataError, match="column 'more' holds lists in row 1"):
            read(tmp_path / "long.parquet", **{key: "more"})


def test_a_test_table_has_the_channels_of_training(tmp_path: Path) -> None:
    """Its columns may stand in another order, among others that are not looked at."""
    path = tmp_path / "test.csv"
    path.write_text("id,kind,t,y,x,z\nq,a,0,1,2,3\n")
    assert read(path, ("x", "y")).values[0].tolist() == [[2, 1]]
    with pytest.raises(DataError, match="no column 'w'"):
        read(path, ("w",))


@pytest.mark.parametrize(
    ("extra", "keys", "said"),
    [
        ("s0,b,9,1,1\n", {}, "row 38 gives series 's0' the label 'b', but its first row says 'a'"),
        ("s0,,9,1,1\n", {}, "column 'kind' is empty in row 38"),
        (",a,9,1,1\n", {}, "column 'id' is empty in row 38"),
        ("s0,a,2,1,1\n", {"time": "t"}, "rows 26 and 38 are of the same series"),
        ("s0,a,soon,1,1\n", {"time": "t"}, "which is no time"),
        ("s0,a,9,oops,1\n", {"features": "x"}, "'oops' in row 38"),
        ("s0,a,9,,1\n", {}, "series 's0': channel x has no value at step 4"),
        ("", {"label": "kid"}, "no column 'kid'"),
        ("", {"features": "z"}, "no column 'z'"),
        ("", {"label": None}, "[data] the key 'label' is missing"),
        ("", {"series": None}, "[data] the key 'series' is missing"),
        ("z,a ,0,1,1\n", {}, "'a' and 'a ' differ only in blanks"),
    ],
)
def test_broken_tables(tmp_path: Path, extra: str, keys: dict[str, object], said: str) -> None:
    """Whatever is wrong with a table, the message names the row, or the column, and the remedy."""
    with pytest.raises((DataError, ConfigError)) as caught:
        table(tmp_path / "long.csv", rows(extra=extra), **keys)
    assert said in str(caught.value)
    assert "long.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_without_numbers(tmp_path: Path) -> None:
    """Without a channel there is nothing to learn from."""
    with pytest.raises(DataError, match="has no numeric column"):
        table(tmp_path / "a.csv", "id,kind\n1,a\n2,b\n")


def series_of(*values: list[list[float]]) -> Labelled:
    """Returns series of the given rows of channels, on lines 1, 2..."""
    places = [f"line {at}" for at in range(1, len(values) + 1)]
    arrays = [np.array(one, dtype=np.float64) for one in values]
    return Labelled(Path("toy.ts"), arrays, ["a"] * len(values), places, ("x", "y"))


def test_missing_values() -> None:
    """Missing values are an error, are interpolated in their series, or cost their steps."""
    nan = float("nan")
    part = series_of([[5, 5]], [[0, 1], [nan, 1], [4, 1], [nan, 1]])
    with pytest.raises(DataError, match=r"toy\.ts, line 2: channel x has no value at step 2"):
        without_missing(part, "error")
    filled, dropped = (without_missing(part, how) for how in ("interpolate", "drop"))
    assert filled.values[1].tolist() == [[0, 1], [2, 1], [4, 1], [4, 1]]
    assert dropped.values[1].tolist() == [[0, 1], [4, 1]]
    assert filled.notes == ("toy.ts: 2 steps of 1 series had missing values and were interpolated",)
    whole = part.take([0])
    assert without_missing(whole, "error") is whole


def test_series_of_which_nothing_is_left() -> None:
    """A channel without any value cannot be interpolated, and no series may become empty."""
    nan = float("nan")
    part = series_of([[1, 1]], [[1, nan], [2, nan]])
    with pytest.raises(DataError, match="line 2: channel y has no value at all"):
        without_missing(part, "interpolate")
    with pytest.raises(DataError, match="line 2: every step has a missing value"):
        without_missing(part, "drop")


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6).filter(lambda counts: max(counts) > 1),
    st.floats(0.01, 0.99),
)
def test_every_class_is_in_both_parts(counts: list[int], share: float) -> None:
    """Each class gives its share but for rounding, or where that is none or all, one less or more.

    A class of one series keeps it.
    """
    part = labelled(counts, 0)
    kept, taken = cut(part, share, "test")
    assert sorted(kept + taken) == list(range(sum(counts)))
    for at, count in enumerate(counts):
        given_away = sum(part.labels[one] == str(at) for one in taken)
        rounded = (math.floor(share * count), math.floor(share * count) + 1)
        assert given_away in {min(max(each, 1), count - 1) for each in rounded}


@pytest.mark.parametrize(
    ("counts", "share", "given_away"),
    [
        ([6, 5], 0.25, [2, 1]),
        ([5, 6], 0.25, [1, 2]),
        ([13, 3], 0.1, [2, 1]),
        ([13, 23], 0.1, [2, 2]),
    ],
)
def test_what_is_taken_in_all(counts: list[int], share: float, given_away: list[int]) -> None:
    """All classes together give their share, rounded; of equal remainders the first counts."""
    part = labelled(counts, 0)
    _, taken = cut(part, share, "test")
    found = [sum(part.labels[one] == str(at) for one in taken) for at in range(len(counts))]
    assert found == given_away


@given(st.permutations(range(20)))
def test_the_cut_does_not_depend_on_the_order_of_the_file(order: list[int]) -> None:
    """Shuffling the file changes nothing about which series are taken."""
    part = labelled([9, 4, 7], 1)
    shuffled = part.take(order)
    _, taken = cut(part, 0.3, "test")
    _, again = cut(shuffled, 0.3, "test")
    assert {order[at] for at in again} == set(taken)


def test_the_cut_is_no_prefix_of_the_file() -> None:
    """Files are often in the order of recording, so series are not taken from one end."""
    _, taken = cut(labelled([40], 2), 0.5, "test")
    assert taken not in (list(range(20)), list(range(20, 40)))


def test_a_feature_named_twice_is_one_channel(tmp_path: Path) -> None:
    """As for a forecast, a column that the study file names twice is read once."""
    (tmp_path / "long.csv").write_text(rows())
    assert read(tmp_path / "long.csv", features=["y", "x", "y"]).channels == ("y", "x")
