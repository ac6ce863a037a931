"""Parquet: types that Python does not have, and files that unpack to more than fits in memory."""

from __future__ import annotations

import csv
import io
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from peftsweep.data import parquet_files
from tests.reading import read, refused, works_or_gives_one_error
from tests.test_data import loaded

LARGE = 2**62


def odd(kind: pyarrow.DataType, storage: pyarrow.DataType | None = None) -> pyarrow.Array:
    """Values of a type that Python does not have."""
    return pyarrow.array([LARGE if storage is None else 2**31 - 1, 0, None], storage or pyarrow.int64()).view(kind)


COLUMNS: dict[str, pyarrow.Array] = {
    "null": pyarrow.nulls(3),
    "bool": pyarrow.array([True, False, None]),
    "half": pyarrow.array([1.0, float("nan"), None], pyarrow.float16()),
    "decimal": pyarrow.array(["1.00", "0.50", None]).cast(pyarrow.decimal256(60, 2)),
    "large string": pyarrow.array(["x", "y", None], pyarrow.large_string()),
    "string view": pyarrow.array(["x", "y", None], pyarrow.string_view()),
    "binary": pyarrow.array([b"x", b"\xff", None]),
    "dictionary": pyarrow.array(["x", "y", None]).dictionary_encode(),
    "date32": odd(pyarrow.date32(), pyarrow.int32()),
    "date64": odd(pyarrow.date64()),
    **{f"timestamp {unit}": odd(pyarrow.timestamp(unit)) for unit in ("ms", "us", "ns")},
    "zone": odd(pyarrow.timestamp("us", "Europe/Berlin")),
    "no zone": odd(pyarrow.timestamp("us", "No/Where")),
    "time": odd(pyarrow.time64("ns")),
    **{f"duration {unit}": odd(pyarrow.duration(unit)) for unit in ("s", "ms", "us", "ns")},
    "list": pyarrow.array([["x", "y"], [], None]),
    "lists": pyarrow.array([[["x"]], [], None]),
    "list of moments": pyarrow.ListArray.from_arrays([0, 1, 2, 3], odd(pyarrow.timestamp("us"))),
    "struct": pyarrow.array([{"a": 1}, {"a": 2}, None]),
    "struct of moments": pyarrow.StructArray.from_arrays([odd(pyarrow.timestamp("us"))], ["a"]),
    "map": pyarrow.array([[("a", 1)], [], None], pyarrow.map_(pyarrow.string(), pyarrow.int32())),
    "no utf-8": pyarrow.array([b"\xff", b"x", b"y"]).view(pyarrow.string()),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_of_any_type_is_read_and_works_as_labels_or_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"text {i}" for i in range(30)]
    parquet.write_table(pyarrow.table({"text": texts, "c": pyarrow.chunked_array([COLUMNS[kind]] * 10)}), path)
    assert read(path, "text")[0].columns == {"text": texts}
    if kind == "no utf-8":
        assert "row 1 " in (message := refused(path, "c")) and "utf-8 (0xff)" in message
        return
    table, _ = read(path, "text", whole=True)
    csv.writer(io.StringIO()).writerows(zip(*table.columns.values(), strict=True))
    for settings in ({"labels": "c"}, {"labels": ["c", "text2"]}, {"labels": {"column": "c"}}):
        works_or_gives_one_error(partial(loaded, source=path, **settings))


def test_times_beyond_python_s_dates_stay_as_parquet_has_them(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    moments = pyarrow.array([400_000 * 365 * 86_400 * 1000, 0]).view(pyarrow.timestamp("ms"))
    nested = pyarrow.ListArray.from_arrays([0, 1, 2], moments)
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "at": moments, "all": nested}), path)
    table, _ = read(path, "text", whole=True)
    assert "12614400000000000" in table.columns["at"][0] and table.columns["at"][1].year == 1970
    assert table.columns["all"][0] == [table.columns["at"][0]]


@pytest.mark.parametrize("unit", ["ms", "us"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "UTC", "+05:30", "No/Where"])
def test_times_that_overflow_look_the_same_with_and_without_a_zone(tmp_path: Path, unit: str, zone: str) -> None:
    path = tmp_path / "a.parquet"
    stored = pyarrow.array([2**62, -(2**62)])
    both = {"plain": stored.view(pyarrow.timestamp(unit)), "zoned": stored.view(pyarrow.timestamp(unit, zone))}
    parquet.write_table(pyarrow.table({"text": ["a", "b"], **both}), path)
    columns = read(path, "text", whole=True)[0].columns
    assert columns["plain"] == columns["zoned"]
    assert all(shown.startswith("<value out of range: ") for shown in columns["zoned"])


def test_names_of_folders_and_columns_have_no_meaning_in_parquet(tmp_path: Path) -> None:
    """Other programs read a folder `label=1` as a column, and `a.b` as a field of `a`."""
    folder = tmp_path / "label=1"
    folder.mkdir()
    parquet.write_table(pyarrow.table({"a.b": ["x"], "a": [{"b": "y"}], "text": ["t"]}), folder / "_a.parquet")
    assert read(folder / "_a.parquet", "a.b", "text")[0].columns == {"a.b": ["x"], "text": ["t"]}
    assert list(read(folder / "_a.parquet", "text", whole=True)[0].columns) == ["a.b", "a", "text"]


def test_numbers_of_few_bits_equal_their_decimal_text(tmp_path: Path) -> None:
    """A filter for at least 0.9 keeps 0.9, and 0.1 is the same class in every format."""
    cells = [0.1, 0.9, None, float("nan")]
    coded = pyarrow.array(cells, pyarrow.float32()).dictionary_encode()
    for kind in (pyarrow.float16(), pyarrow.float32(), pyarrow.float64()):
        column = pyarrow.array(cells, kind)
        many = pyarrow.array([[0.1], [0.9, None], None, []], pyarrow.list_(kind))
        table = pyarrow.table({"a": column, "b": many, "c": coded})
        parquet.write_table(table, tmp_path / "a.parquet")
        found = read(tmp_path / "a.parquet", "a", "b", "c")[0].columns
        assert found["a"][:3] == found["c"][:3] == [0.1, 0.9, None] and found["a"][3] != found["a"][3]
        assert found["b"] == [[0.1], [0.9, None], None, []]


def test_parquet_that_unpacks_to_more_than_memory_holds_is_refused_by_its_footer_or_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested: Any = pyarrow.array([1] * 3000)
    for _ in range(parquet_files.LEVELS + 1):
        nested = pyarrow.StructArray.from_arrays([nested], ["a"])
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 3000, pyarrow.int8()), ["x" * 100])
    table = pyarrow.table({"text": texts, "label": texts})
    file = tmp_path / "a.parquet"
    parquet.write_table(table, file, row_group_size=1000)
    assert len(read(file, "text")[0]) == 3000
    # each limit is checked before the ones that are already lowered
    monkeypatch.setattr(parquet_files, "BYTES", 200_000)
    assert "has more than 200,000 bytes when decoded" in refused(file, "text")
    monkeypatch.setattr(parquet_files, "GROUPS", 2)
    assert "has 3 row groups, but at most 2 are allowed" in refused(file, "text")
    monkeypatch.setattr(parquet_files, "COLUMNS", 1)
    assert "has 2 columns, but at most 1 are allowed" in refused(file, "text")
    monkeypatch.setattr(parquet_files, "ROWS", 2999)
    assert "has 3,000 rows, but at most 2,999 are allowed" in refused(file, "text")
    monkeypatch.undo()
    parquet.write_table(table.append_column("deep", nested), file)
    assert "nested more than 50 levels deep" in refused(file, "text")
