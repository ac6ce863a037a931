"""What a cell of labels says: classes in every spelling, several labels in one column, and their order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import yaml
from pyarrow import parquet

from peftsweep import data
from peftsweep.data.doubts import doubts
from peftsweep.data.spelling import class_name, labels_in, order
from peftsweep.task import Task
from tests.test_data import FORMATS, ROOT, loaded, refusal
from tests.tiny import EMOTIONS, tiny_rows, write

LABELS = EMOTIONS[:3]  # anger, anticipation, disgust
SETS: list[list[str]] = [[label for label in LABELS if row[label]] for row in tiny_rows(LABELS, 40, 0)]
SETS[7] = []


def rows(cell: Any) -> list[dict[str, Any]]:
    """Rows whose labels stand in one column, each cell as that function makes it of a list."""
    return [{"text": f"text {i}", "emotions": cell(labels)} for i, labels in enumerate(SETS)]


def flags() -> list[dict[str, Any]]:
    return [{"text": f"text {i}"} | {name: int(name in labels) for name in LABELS} for i, labels in enumerate(SETS)]


# Several labels in one column


@pytest.mark.parametrize("separator", [";", "|", ",", " / ", "\n", "::", " "])
@pytest.mark.parametrize("ending", FORMATS)
def test_labels_parted_by_a_mark_are_those_of_columns_of_noughts_and_ones(
    tmp_path: Path, ending: str, separator: str
) -> None:
    if (ending, separator) == (".tsv", "\n"):  # no field of TSV has one
        separator = "/"
    expected = loaded(source=write(tmp_path / "flags.csv", flags()), labels=LABELS)
    path = write(tmp_path / f"a{ending}", rows(separator.join))
    found = loaded(source=path, labels={"column": "emotions", "separator": separator})
    assert found.task == expected.task == Task("multi-label", tuple(LABELS))
    assert found.fingerprint == expected.fingerprint


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("labels", ["emotions", {"column": "emotions"}, {"column": "emotions", "separator": ";"}])
def test_lists_are_several_labels_whether_the_study_says_so_or_not(tmp_path: Path, ending: str, labels: Any) -> None:
    expected = loaded(source=write(tmp_path / "flags.csv", flags()), labels=LABELS).fingerprint
    assert loaded(source=write(tmp_path / f"a{ending}", rows(list)), labels=labels).fingerprint == expected


@pytest.mark.parametrize(
    "cell",
    [
        str,
        json.dumps,
        lambda labels: str(tuple(labels)),
        lambda labels: str(np.array(labels)) if labels else "[]",  # as pandas writes an array: no commas
        lambda labels: f"[{', '.join(labels)}]" if len(labels) > 1 else str(labels),
        lambda labels: f" {labels} " if labels else None,
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_lists_that_are_written_out_are_read(tmp_path: Path, ending: str, cell: Any) -> None:
    expected = loaded(source=write(tmp_path / "flags.csv", flags()), labels=LABELS).fingerprint
    path = write(tmp_path / f"a{ending}", rows(cell))
    assert loaded(source=path, labels={"column": "emotions"}, quoting=ending == ".csv").fingerprint == expected


@pytest.mark.parametrize(
    ("cell", "separator", "found"),
    [
        (" joy ;; anger; joy ; ", ";", ["joy", "anger"]),
        ("", ";", []),
        (" \t", ";", []),
        (None, ";", []),
        (float("nan"), ";", []),
        (3, ";", ["3"]),
        ("1;2.0;True", ";", ["1", "2", "True"]),
        ("['a;b', 'c']", ";", ["a;b", "c"]),
        ("[a];b", ";", ["[a]", "b"]),
        ("joy", None, None),
        ("['joy'", None, None),
        ("{'joy': 1}", None, None),
        ("[['joy']]", None, None),
        ([["joy"]], None, None),
        ([{"joy": 1}], None, None),
        ("[__import__('os').getcwd()]", None, None),
        ("[" * 9_000 + "]" * 9_000, None, None),
        ("['it\\'s', \"so\"]", None, ["it's", "so"]),
        ('["\\ud83d\\ude00"]', None, ["😀"]),
        (["joy", None, "", "joy"], None, ["joy"]),
        ([1, 2.0, True], None, ["1", "2"]),
        ([0.5], None, None),
    ],
)
def test_the_labels_of_a_cell(cell: Any, separator: str | None, found: list[str] | None) -> None:
    assert labels_in(cell, separator) == found


@pytest.mark.parametrize(
    ("cell", "labels", "said"),
    [
        (
            ";".join,
            {"column": "emotions"},
            "expected a list, such as ['joy', 'anger']; if a mark parts its labels, name it: "
            'labels: {column: emotions, separator: ";"}',
        ),
        (lambda labels: {"a": 1}, {"column": "emotions", "separator": ";"}, "expected labels parted by ';'"),
        (lambda labels: ["anger"], "emotions", "column emotions has one label alone ('anger')"),
        (lambda labels: [], "emotions", "column emotions has no label at all"),
        (lambda labels: [int(name in labels) for name in LABELS], "emotions", "each list has 3 noughts and ones"),
        (lambda labels: labels if labels != ["anger"] else 0.5, "emotions", "column emotions: 0.5 in rows"),
    ],
)
def test_a_column_that_does_not_hold_what_it_should(tmp_path: Path, cell: Any, labels: Any, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(cell)))
    message = refusal(source=path, labels=labels)
    assert said in message and message.startswith(str(path))


def test_a_label_that_only_validation_has_is_told_with_its_rows(tmp_path: Path) -> None:
    dev = [{"text": f"other {i}", "emotions": "anger" if i else "joy; anger"} for i in range(9)]
    train = write(tmp_path / "a.csv", rows(";".join))
    message = refusal(
        train=train,
        validation=write(tmp_path / "dev.csv", dev),
        labels={"column": "emotions", "separator": ";"},
    )
    assert "dev.csv: column emotions: 'joy' in row 1: no row for training has it" in message


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        (";".join, {"column": "emotions", "separator": ";"}),
        ("|".join, {"column": "emotions", "separator": "|"}),
        (", ".join, {"column": "emotions", "separator": ","}),
        (" / ".join, {"column": "emotions", "separator": "/"}),
        (str, {"column": "emotions"}),
        (json.dumps, {"column": "emotions"}),
    ],
)
def test_one_warning_has_the_key_for_a_column_of_classes_that_looks_like_several_labels(
    tmp_path: Path, cell: Any, key: dict[str, str]
) -> None:
    filled = [row for row, labels in zip(rows(cell), SETS, strict=True) if labels]
    path, said = write(tmp_path / "a.csv", filled), list[str]()
    assert loaded(said, source=path, labels="emotions").task.kind == "single-label"
    (warning,) = [line for line in said if line.startswith(f"warning: {path}: column emotions: ")]
    given = yaml.safe_load(warning.partition("several labels: ")[2])
    assert given == {"labels": key}
    assert loaded(source=path, **given).task == Task("multi-label", tuple(LABELS))


@pytest.mark.parametrize(
    "classes",
    [
        ["joy", "anger", "fear"],
        ["sport/football", "sport/tennis", "politics/home", "politics/abroad"],  # parts of a tree
        ["rec.autos", "rec.sport.hockey", "sci.med"],
        ["R&B", "AC/DC", "hip hop"],
        ["yes, please", "no, thanks", "maybe"],
        ["[deleted]", "kept", "removed"],
        ["card; lost", *(f"intent {i}" for i in range(9))],
        ["-1", "0", "1"],
        ["C", "C#", "C++"],
    ],
)
def test_names_that_have_a_mark_in_them_are_not_taken_for_joined_labels(classes: list[str]) -> None:
    assert list(doubts(Task("single-label", tuple(classes)), "class")) == []


@pytest.mark.parametrize(
    "classes",
    [
        ["joy", "anger", "fear", "love", "joy;anger"],  # one of five, and both parts stand alone
        ["joy;anger", "fear;love"],
        ["joy + anger", "joy", "anger"],
        ["joy#anger", "joy#fear", "fear#anger"],
    ],
)
def test_names_that_are_joins_of_others_are_told(classes: list[str]) -> None:
    (said,) = doubts(Task("single-label", tuple(classes)), "class")
    assert "look like labels joined by" in said


# Classes in every spelling


def column(folder: Path, ending: str, values: list[Any], kind: Any = None, name: str = "a") -> Path:
    """Forty rows of these classes in turn, the texts being those of `name`."""
    texts, cells = [f"{name} {i}" for i in range(40)], (values * 40)[:40]
    path = folder / f"{name}{ending}"
    if ending == ".parquet":
        parquet.write_table(pyarrow.table({"text": texts, "c": pyarrow.array(cells, kind)}), path)
        return path
    return write(path, [{"text": text, "c": cell} for text, cell in zip(texts, cells, strict=True)])


BOOLEANS: list[tuple[str, list[Any], Any]] = [
    *((ending, pair, None) for ending in FORMATS for pair in (["true", "false"], ["True", "False"], ["TRUE", "FALSE"])),
    *((ending, [True, False], None) for ending in FORMATS),
    *((ending, [1, 0], None) for ending in FORMATS),
    *((".parquet", [1, 0], kind) for kind in (pyarrow.int8(), pyarrow.uint64(), pyarrow.float16(), pyarrow.float64())),
    (".parquet", [Decimal("1.00"), Decimal(0)], pyarrow.decimal128(6, 2)),
    (".parquet", ["true", "false"], pyarrow.large_string()),
    (".parquet", ["1.0", "0.0"], pyarrow.dictionary(pyarrow.int8(), pyarrow.string())),
    (".jsonl", [True, "false", 1, 0.0, "1", False], None),
]


@pytest.mark.parametrize("labels", ["c", ["c", "d"]])
def test_booleans_and_noughts_and_ones_are_one_set_of_classes_in_every_format(tmp_path: Path, labels: Any) -> None:
    found = set()
    for ending, values, kind in BOOLEANS:
        path = column(tmp_path, ending, values, kind)
        if labels == "c":
            dataset = loaded(source=path, labels="c")
            assert dataset.task == Task("single-label", ("0", "1"))
            # a validation file in words, whatever training is in
            other = column(tmp_path, ".csv", ["True", "False"], name="dev")
            assert loaded(train=path, validation=other, labels="c").task == dataset.task
        else:
            table = data.read(str(path), "data.train", ["text", "c"], data.Form(), print)
            cells = [{"text": t, "c": c, "d": "True"} for t, c in zip(*table.columns.values(), strict=True)]
            if ending == ".parquet":
                both = parquet.read_table(path)
                parquet.write_table(both.append_column("d", pyarrow.array([True] * 40)), path)
            else:
                write(path, cells)
            dataset = loaded(source=path, labels=["c", "d"])
        found.add(dataset.fingerprint)
    assert len(found) == 1


@pytest.mark.parametrize("values", [["true", "half-true", "false"], ["True", "False", "unknown"], ["yes", "no"]])
def test_words_among_other_names_stay_names(tmp_path: Path, values: list[str]) -> None:
    assert loaded(source=column(tmp_path, ".csv", values), labels="c").task.labels == tuple(sorted(values))


def test_whole_numbers_are_the_same_classes_in_every_format(tmp_path: Path) -> None:
    found = set()
    for ending in FORMATS:
        for kind in (int, float, str):
            found.add(loaded(source=column(tmp_path, ending, [kind(n) for n in (10, -1, 2)]), labels="c").fingerprint)
    for kind in (pyarrow.int16(), pyarrow.float32(), pyarrow.decimal128(5, 1)):
        values = [Decimal(n) if pyarrow.types.is_decimal(kind) else n for n in (10, -1, 2)]
        found.add(loaded(source=column(tmp_path, ".parquet", values, kind), labels="c").fingerprint)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *((value, "1") for value in (1, 1.0, True, "1", " 1.00", np.int64(1), np.float32(1), np.True_, Decimal("1.0"))),
        *(
            (value, None)
            for value in (None, "", " ", 0.5, float("nan"), float("inf"), [1], {}, b"joy", "\ud800", "a\udfff")
        ),
        *((value, "0") for value in (0, -0.0, "0.0", "-0.0", False, Decimal("-0"))),
        *((value, value) for value in ("01", "-0", "1e0", "+1", "1.5", "True", "٣", "1_0", "0x1")),
        (2**70, str(2**70)),
        (1e20, str(10**20)),
    ],
)
def test_the_class_that_a_cell_names(value: Any, name: str | None) -> None:
    assert class_name(value) == name


# Their order

ALIKE = [
    "1",
    "01",
    "001",
    "1e0",
    "0",
    "-0",
    "00",
    "7",
    "007",
    "٧",
    "-1",
    "-01",
    "Joy",
    "joy",
    "JOY",
    "\u00e9",
    "e\u0301",
]
ALIKE += ["9" * 400, "9" * 401, "9" * 5000, str(2**53), str(2**53 + 1), "inf", "nan", "-", "--1", "²", "½", "0x1"]


def test_no_two_names_have_the_same_place_in_the_order() -> None:
    rng = np.random.default_rng(0)
    first = sorted(ALIKE, key=order)
    assert len({order(name) for name in ALIKE}) == len(ALIKE)
    for _ in range(50):
        assert sorted(rng.permutation(np.array(ALIKE, object)).tolist(), key=order) == first
    numbers = [name for name in first if name.removeprefix("-").isdecimal()]
    assert first[: len(numbers)] == numbers and numbers[:4] == ["-01", "-1", "-0", "0"]


HASHED = """
import sys
from peftsweep.config import DataConfig, SplitConfig
from peftsweep.data.cut import cut
from peftsweep.data.labels import label_array, task_of
from peftsweep.data.table import Table

names, texts = sys.argv[1].split(), [f"text {i % 90}" for i in range(120)]
joined = [f"{one};{other}" for one, other in zip(names * 12, (names[3:] + names) * 12)]
table = Table("a", {"text": texts, "one": (names * 12)[:120], "all": joined[:120]}, list(range(120)))
for labels in ("one", {"column": "all", "separator": ";"}):
    config = DataConfig.model_validate({"train": "a.csv", "text": "text", "labels": labels})
    task = task_of(config, table)
    parts = cut(table, texts, label_array(config, table, task), SplitConfig(test=0.2), print)
    print(task, {name: part.rows for name, part in parts.items()})
"""


def test_neither_classes_nor_the_cut_depend_on_the_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sorted` leaves names of equal places as a set gives them, which is otherwise in each process."""
    names = " ".join(ALIKE[:12])
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", HASHED, names]
    other = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    monkeypatch.setattr(sys, "argv", ["-c", names])
    exec(HASHED, {})
    assert capsys.readouterr().out == other and "'01'" in other
