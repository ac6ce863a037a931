"""What happens to rows with the same text: equal rows, similar ones, and tables with a row for each label?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from peftsweep.task import Task
from tests.test_data import FORMATS, loaded
from tests.tiny import EMOTIONS, write

LABELS = sorted(EMOTIONS[:3])
SETS = [[label for bit, label in enumerate(LABELS) if (i % 7 + 1) >> bit & 1] for i in range(42)]
LONG = [{"text": f"text {i}", "c": label} for i, labels in enumerate(SETS) for label in labels]
WIDE = [{"text": f"text {i}"} | {name: int(name in labels) for name in LABELS} for i, labels in enumerate(SETS)]
GROUPED = {"column": "c", "grouped": True}


def warned(said: list[str]) -> list[str]:
    return [line for line in said if "are in several rows with different labels" in line]


def advice(warning: str) -> Any:
    """The setting that a warning recommends."""
    return yaml.safe_load(warning.partition(" the rows of a text: ")[2])


@pytest.mark.parametrize("ending", FORMATS)
def test_a_table_with_a_row_for_each_label_is_reported_and_the_advice_merges_the_rows(
    tmp_path: Path, ending: str
) -> None:
    path, said = write(tmp_path / f"a{ending}", LONG), list[str]()
    assert loaded(said, source=path, labels="c").task.kind == "single-label"
    (warning,) = warned(said)
    assert f"{path}: 24 of 42 texts (57%)" in warning
    assert f"such as 'text 2' in rows 3, 4 ('{LABELS[0]}', '{LABELS[1]}'); each row counts as a text" in warning
    advised = advice(warning)
    assert advised == {"labels": GROUPED}
    found = loaded(said := [], source=path, **advised)
    assert said == [f"{path}: 72 rows are 42 texts, each with the labels of all its rows"]
    assert found.task == Task("multi-label", tuple(LABELS))
    assert found.fingerprint == loaded(source=write(tmp_path / "wide.csv", WIDE), labels=LABELS).fingerprint


@pytest.mark.parametrize(
    ("cell", "separator"), [(lambda label: f"{label};love", ";"), (lambda label: [label, "love"], None)]
)
def test_rows_with_several_labels_each_are_merged_too(tmp_path: Path, cell: Any, separator: str | None) -> None:
    path, said = write(tmp_path / "a.jsonl", [row | {"c": cell(row["c"])} for row in LONG]), list[str]()
    key = {"column": "c"} | ({"separator": separator} if separator else {})
    loaded(said, source=path, labels=key)
    advised = advice(warned(said)[0])
    assert advised == {"labels": GROUPED | key}
    wide = write(tmp_path / "wide.csv", [row | {"love": 1} for row in WIDE])
    assert (
        loaded(source=path, **advised).fingerprint == loaded(source=wide, labels=sorted([*LABELS, "love"])).fingerprint
    )


def test_lost_labels_of_dropped_duplicates_are_reported(tmp_path: Path) -> None:
    path, said = write(tmp_path / "a.csv", LONG), list[str]()
    assert len(loaded(said, source=path, labels="c", drop_duplicates=True, split={"validation": 5}).train) == 37
    assert "only its first row is kept (data.drop_duplicates)" in warned(said)[0]
    assert f"{path}: 30 rows repeat an earlier text and were left out, 30 of them with other labels" in said


def test_zero_one_columns_in_several_rows_of_a_text_are_reported(tmp_path: Path) -> None:
    rows = [row | dict.fromkeys(LABELS, 0) | {name: 1} for row in WIDE for name in LABELS if row[name]]
    loaded(said := list[str](), source=write(tmp_path / "a.csv", rows), labels=LABELS)
    assert warned(said)[0].endswith("If a text may have several labels, put all of them into one row")


def test_a_few_texts_that_two_people_labelled_differently_give_no_warning(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "c": LABELS[i % 3]} for i in range(60)]
    for again, warns in ((2, False), (3, True)):
        more = [row | {"c": LABELS[i % 3 - 1]} for i, row in enumerate(rows[:again])]
        loaded(said := list[str](), source=write(tmp_path / "a.csv", [*rows, *rows, *more]), labels="c")
        assert bool(warned(said)) == warns


SPELT = [("caf\u00e9 {}", "cafe\u0301 {}"), ("one text {}", "one  text\u00a0{} "), ("a b {}", "a\nb {}\r")]


@pytest.mark.parametrize(("text", "other"), SPELT)
def test_texts_that_look_the_same_are_duplicates(tmp_path: Path, text: str, other: str) -> None:
    rows = [{"text": own.format(i), "c": "xy"[i % 2]} for i in range(30) for own in (text, other)]
    path, said = write(tmp_path / "a.jsonl", rows), list[str]()
    for seed in range(3):
        dataset = loaded(said, source=path, labels="c", split={"validation": 0.3, "test": 0.2, "seed": seed})
        assert dataset.test is not None and not said
        parts = [dataset.train.texts, dataset.validation.texts, dataset.test.texts]
        assert [len(part) for part in parts] == [30, 18, 12]
        for part in parts:
            assert {text.format(i) in part for i in range(30) if other.format(i) in part} == {True}
            assert sum(text.format(i) in part for i in range(30)) == len(part) / 2
    dataset = loaded(said, source=path, labels="c", drop_duplicates=True)
    assert {*dataset.train.texts, *dataset.validation.texts} == {text.format(i) for i in range(30)}
    dev = write(tmp_path / "dev.jsonl", [{"text": other.format(i), "c": "xy"[i % 2]} for i in range(5)])
    loaded(said := [], train=path, validation=dev, labels="c")
    (line,) = said
    assert line.startswith(f"{path}: 10 texts are in validation") and line.endswith(": rows 1, 2, 3, 4, 5 and 5 more")
