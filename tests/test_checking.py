"""What is wrong with a study's files is reported at once, by line and key of the study file, before libraries load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from peftsweep.config import load
from peftsweep.data import mistakes
from peftsweep.errors import StudyFileError

STUDY = """\
model: {id: base}
method: lora
data:
  train: train.csv
  validation: dev.jsonl
  text: text
  labels: label
"""
GOOD = [("how nice", "joy"), ("how sad", "grief"), ("what a day", "joy")]


def lines(folder: Path, train: list[tuple[str, str]] = GOOD, **overrides: object) -> list[str]:
    """The complaints about a study whose rows for training are these."""
    (folder / "mine.yaml").write_text(STUDY, encoding="utf-8")
    (folder / "train.csv").write_text("text,label\n" + "".join(f"{t},{c}\n" for t, c in train), encoding="utf-8")
    validation = [{"text": "so so", "label": "joy"}, {"text": "oh", "label": "grief"}]
    (folder / "dev.jsonl").write_text("\n".join(map(json.dumps, validation)), encoding="utf-8")
    try:
        load(folder / "mine.yaml", [f"{key}={json.dumps(value)}" for key, value in overrides.items()], check=mistakes)
    except StudyFileError as error:
        return str(error).replace(f"{folder}/", "").splitlines()
    return []


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_right_files_have_no_mistakes(tmp_path: Path) -> None:
    assert lines(tmp_path) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data.train", "trian.csv", "trian.csv is not there; did you mean train.csv?"),
        ("data.text", "tetx", "train.csv: no column tetx; it has text, label; did you mean text for tetx?"),
        ("data.labels", "topic", "train.csv: no column topic; it has text, label"),
        ("data.validation", "mine.yaml", "mine.yaml is no file of a format that is read: .csv, .tsv, .parquet, .jsonl"),
    ],
)
def test_an_override_is_named_as_the_key_that_is_wrong(tmp_path: Path, key: str, value: str, said: str) -> None:
    assert lines(tmp_path, **{key: value})[0] == f"--set {key}: {said}"


def test_all_columns_that_any_file_lacks_are_listed(tmp_path: Path) -> None:
    text = STUDY.replace("text: text", "text: body").replace("labels: label", "labels: [a, b]\n  filter: {c: {min: 1}}")
    lines(tmp_path)
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(StudyFileError) as error:
        load("mine.yaml", check=mistakes)
    assert str(error.value).splitlines() == [
        "mine.yaml:6: data.text: train.csv: no column body; it has text, label",
        "mine.yaml:6: data.text: row 1: dev.jsonl: no column body; it has text, label",
        "mine.yaml:7: data.labels: train.csv: no columns a, b; it has text, label",
        "mine.yaml:7: data.labels: row 1: dev.jsonl: no columns a, b; it has text, label",
        "mine.yaml:8: data.filter.c: train.csv: no column c; it has text, label",
        "mine.yaml:8: data.filter.c: row 1: dev.jsonl: no column c; it has text, label",
    ]


def test_texts_and_labels_are_both_complained_about(tmp_path: Path) -> None:
    assert lines(tmp_path, [*GOOD, ("", "joy"), ("hm", "")]) == [
        "mine.yaml:6: data.text: train.csv: column text: empty in row 4; remove these rows",
        "mine.yaml:7: data.labels: train.csv: column label: empty in row 5: expected a name or a number for each row",
    ]


def test_one_class_and_a_class_that_training_lacks(tmp_path: Path) -> None:
    (alone,) = lines(tmp_path, GOOD[:1])
    assert (
        alone == "mine.yaml:7: data.labels: train.csv: column label has one class alone ('joy'): nothing to tell apart"
    )
    (strange,) = lines(tmp_path, [("a", "joy"), ("b", "fear")])
    assert "mine.yaml:7: data.labels: dev.jsonl: column label: 'grief' in row 2: no row for training has it" in strange


def test_joined_labels_are_told_with_the_empty_cells_among_them(tmp_path: Path) -> None:
    (said,) = lines(tmp_path, [("a", "joy;fear"), ("b", "joy"), ("c", ""), ("d", "fear"), ("e", "fear;joy")])
    assert "column label: empty in row 3: expected a name or a number for each row; 2 of 4 classes look like" in said
    assert "labels: {column: label, separator: ;}; an empty cell is a text without labels then" in said
    assert len(lines(tmp_path, [("a", ""), ("b", "")])) == 1  # no class at all looks like nothing


def test_nothing_slow_is_imported_before(tmp_path: Path) -> None:
    lines(tmp_path)
    code = "import sys; from peftsweep.cli import _config; _config('mine.yaml', None); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"transformers", "optuna", "mlflow", "datasets", "peft", "peftsweep.sweep"}
