"""Are mistakes in a study's data reported before libraries load, by line and key of the study file?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peftsweep.config import load
from peftsweep.data import check_cache, find_mistakes
from peftsweep.data import load as loads
from peftsweep.data.check_cache import cached
from peftsweep.errors import StudyFileError
from tests.test_data import TOKENIZER

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
    """The mistakes reported for a study with these training rows."""
    (folder / "mine.yaml").write_text(STUDY, encoding="utf-8")
    (folder / "train.csv").write_text("text,label\n" + "".join(f"{t},{c}\n" for t, c in train), encoding="utf-8")
    validation = [{"text": "so so", "label": "joy"}, {"text": "oh", "label": "grief"}]
    (folder / "dev.jsonl").write_text("\n".join(map(json.dumps, validation)), encoding="utf-8")
    try:
        load(
            folder / "mine.yaml",
            [f"{key}={json.dumps(value)}" for key, value in overrides.items()],
            check=find_mistakes,
        )
    except StudyFileError as error:
        return str(error).replace(f"{folder}/", "").splitlines()
    return []


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_correct_files_have_no_mistakes(tmp_path: Path) -> None:
    assert lines(tmp_path) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data.train", "trian.csv", "trian.csv is not there; did you mean train.csv?"),
        ("data.text", "tetx", "train.csv: no column tetx; it has text, label; did you mean text for tetx?"),
        ("data.labels", "topic", "train.csv: no column topic; it has text, label"),
        ("data.validation", "mine.yaml", "mine.yaml has no supported"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, key: str, value: str, said: str) -> None:
    assert lines(tmp_path, **{key: value})[0].startswith(f"--set {key}: {said}")


def test_the_missing_columns_of_all_files_are_listed(tmp_path: Path) -> None:
    text = STUDY.replace("text: text", "text: body").replace("labels: label", "labels: [a, b]\n  filter: {c: {min: 1}}")
    lines(tmp_path)
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(StudyFileError) as error:
        load("mine.yaml", check=find_mistakes)
    assert str(error.value).splitlines() == [
        "mine.yaml:6: data.text: train.csv: no column body; it has text, label",
        "mine.yaml:6: data.text: row 1: dev.jsonl: no column body; it has text, label",
        "mine.yaml:7: data.labels: train.csv: no columns a, b; it has text, label",
        "mine.yaml:7: data.labels: row 1: dev.jsonl: no columns a, b; it has text, label",
        "mine.yaml:8: data.filter.c: train.csv: no column c; it has text, label",
        "mine.yaml:8: data.filter.c: row 1: dev.jsonl: no column c; it has text, label",
    ]


def test_mistakes_in_texts_and_in_labels_are_both_reported(tmp_path: Path) -> None:
    assert lines(tmp_path, [*GOOD, ("", "joy"), ("hm", "")]) == [
        "mine.yaml:6: data.text: train.csv: column text: empty in row 4; remove these rows",
        "mine.yaml:7: data.labels: train.csv: column label: empty in row 5: expected a name or a number in each row",
    ]


def test_a_single_class_and_a_class_missing_from_training_are_reported(tmp_path: Path) -> None:
    (alone,) = lines(tmp_path, GOOD[:1])
    said = "train.csv: column label has only one class ('joy'): there is nothing to distinguish"
    assert alone == f"mine.yaml:7: data.labels: {said}"
    (strange,) = lines(tmp_path, [("a", "joy"), ("b", "fear")])
    assert "mine.yaml:7: data.labels: dev.jsonl: column label: 'grief' in row 2: " in strange and "training" in strange


@pytest.mark.parametrize(
    ("row", "text", "said"),
    [
        (("so", "joy"), "body", "--set data.text: train.csv: no column body; it has text, label"),
        (("", "joy"), "text", "--set data.text: train.csv: column text: empty in row 4; remove these rows"),
    ],
)
def test_a_mistake_in_a_file_that_is_both_train_and_validation_is_reported_once(
    tmp_path: Path, row: tuple[str, str], text: str, said: str
) -> None:
    assert lines(tmp_path, [*GOOD, row], **{"data.validation": "train.csv", "data.text": text}) == [said]


def test_joined_labels_are_reported_with_their_empty_cells(tmp_path: Path) -> None:
    (said,) = lines(tmp_path, [("a", "joy;fear"), ("b", "joy"), ("c", ""), ("d", "fear"), ("e", "fear;joy")])
    assert "column label: empty in row 3: " in said and "; 2 of 4 classes look like" in said
    assert "labels: {column: label, separator: ;}; then an empty cell is a text without labels" in said
    assert (
        len(lines(tmp_path, [("a", ""), ("b", "")])) == 1
    )  # without a class there is nothing to report about joined labels


def test_no_slow_library_is_imported_for_the_checks(tmp_path: Path) -> None:
    lines(tmp_path)
    code = "import sys; from peftsweep.cli.study_commands import _configs; from peftsweep.progress import Silent; "
    code += "_configs(['mine.yaml'], None, Silent()); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"torch", "transformers", "optuna", "mlflow", "datasets", "peft", "peftsweep.sweep"}
    assert not set(done.stdout.split()) & slow


# Loading what was checked


@contextmanager
def files_read() -> Iterator[list[str]]:
    """The data files that Python opens meanwhile, according to its audit events."""
    opened: list[str] = []

    def hook(event: str, given: tuple[object, ...]) -> None:
        if event == "open" and watching and (name := Path(str(given[0])).name) in ("train.csv", "dev.jsonl"):
            opened.append(name)

    watching = True
    sys.addaudithook(hook)  # permanently, because an audit hook cannot be removed
    yield opened
    watching = False


@pytest.mark.parametrize("state", ["unchanged", "rewritten", "of another time"])
def test_checked_files_are_read_again_only_if_they_changed(tmp_path: Path, state: str) -> None:
    lines(tmp_path, [*GOOD, ("how nice", "grief")])
    settings = load("mine.yaml").data
    assert not find_mistakes(settings)
    path = Path("train.csv")
    if state == "rewritten":
        path.write_text(path.read_text().replace("what a day", "what a way"))
    elif state == "of another time":
        os.utime(path, ns=(1, 1))
    fresh: list[list[str]] = []
    with files_read() as opened:
        for _ in range(2):  # the second time, nothing is cached any more
            said: list[str] = []
            dataset = loads(settings, TOKENIZER, note=said.append, warn=said.append)
            fresh.append([dataset.fingerprint, *said])
    assert fresh[0] == fresh[1] and len(fresh[0]) > 1
    assert ("what a way" in dataset.train.texts) == (state == "rewritten")
    assert opened == ["train.csv", "dev.jsonl"] * (1 if state == "unchanged" else 2)


def test_studies_on_the_same_data_are_checked_by_reading_it_once(tmp_path: Path) -> None:
    lines(tmp_path)
    settings = load("mine.yaml").data
    path = Path("train.csv")
    path.write_text(path.read_text() + "so,joy\n")
    with files_read() as opened:
        assert not find_mistakes(settings) and not find_mistakes(load("mine.yaml").data)
    assert opened == ["train.csv", "dev.jsonl"]
    path.write_text("text,label\na,joy\n")
    with files_read() as opened:
        assert find_mistakes(settings)
    assert opened == ["train.csv", "dev.jsonl"]


def test_rows_of_many_studies_are_not_all_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(check_cache, "MAX_ROWS", 12)
    lines(tmp_path)
    settings = load("mine.yaml").data
    for length in range(10, 20):
        assert not find_mistakes(settings.model_copy(update={"max_length": length}))
    assert [cached(settings.model_copy(update={"max_length": length})) is not None for length in (17, 18, 19)] == [
        False,
        True,
        True,
    ]
