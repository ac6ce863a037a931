"""Which labels does a cell name? Classes in every spelling, several labels in one column, and their order."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import yaml
from pyarrow import parquet

from peftsweep import data
from peftsweep.config import MAX_CHARACTERS
from peftsweep.data.label_spelling import class_name, sort_key
from peftsweep.data.labels import MAX_NAME_LENGTH
from peftsweep.data.list_cells import label_names, read_cells
from peftsweep.data.suspect_labels import label_warnings
from peftsweep.task import Task
from tests.test_data import FORMATS, ROOT, checked, loaded, refusal
from tests.tiny import EMOTIONS, tiny_rows, write

LABELS = EMOTIONS[:3]  # anger, anticipation, disgust
SETS: list[list[str]] = [[label for label in LABELS if row[label]] for row in tiny_rows(LABELS, 40, 0)]
SETS[7] = []


def labels_in(cell: Any, separator: str | None) -> list[str] | None:
    """The labels of a column that has only this cell."""
    (found,) = read_cells([cell], separator)
    return None if found is None else label_names(found)


def rows(cell: Any) -> list[dict[str, Any]]:
    """Rows with all labels in one column. `cell` makes a cell from a list of labels."""
    return [{"text": f"text {i}", "emotions": cell(labels)} for i, labels in enumerate(SETS)]


def flags() -> list[dict[str, Any]]:
    return [{"text": f"text {i}"} | {name: int(name in labels) for name in LABELS} for i, labels in enumerate(SETS)]


# Several labels in one column


@pytest.mark.parametrize("separator", [";", "|", ",", " / ", "\n", "::", " "])
@pytest.mark.parametrize("ending", FORMATS)
def test_separated_labels_equal_those_of_zero_one_columns(tmp_path: Path, ending: str, separator: str) -> None:
    if (ending, separator) == (".tsv", "\n"):  # no field of TSV can contain a newline
        separator = "/"
    expected = loaded(source=write(tmp_path / "flags.csv", flags()), labels=LABELS)
    path = write(tmp_path / f"a{ending}", rows(separator.join))
    found = loaded(source=path, labels={"column": "emotions", "separator": separator})
    assert found.task == expected.task == Task("multi-label", tuple(LABELS))
    assert found.fingerprint == expected.fingerprint


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("labels", ["emotions", {"column": "emotions"}, {"column": "emotions", "separator": ";"}])
def test_lists_are_several_labels_even_without_a_setting(tmp_path: Path, ending: str, labels: Any) -> None:
    expected = loaded(source=write(tmp_path / "flags.csv", flags()), labels=LABELS).fingerprint
    assert loaded(source=write(tmp_path / f"a{ending}", rows(list)), labels=labels).fingerprint == expected


@pytest.mark.parametrize(
    "cell",
    [
        str,
        json.dumps,
        lambda labels: str(tuple(labels)),
        lambda labels: str(np.array(labels)) if labels else "[]",  # as pandas writes an array: no commas
        lambda labels: f"[{', '.join(labels)}]",  # Java
        lambda labels: f" {labels} " if labels else None,
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_lists_written_as_text_are_read(tmp_path: Path, ending: str, cell: Any) -> None:
    expected = loaded(source=write(tmp_path / "flags.csv", flags()), labels=LABELS).fingerprint
    path = write(tmp_path / f"a{ending}", rows(cell))
    assert loaded(source=path, labels={"column": "emotions"}, quoting=ending == ".csv").fingerprint == expected


@pytest.mark.parametrize(
    ("cell", "separator", "found"),
    [
        (" joy ;; anger; joy ; ", ";", ["joy", "anger"]),
        ("[a];[b]", ";", ["[a]", "[b]"]),
        ("[joy; sad]", ";", ["[joy", "sad]"]),
        ("bug;(internal)", ";", ["bug", "(internal)"]),
        *((f"{first}internal{last}", ";", [f"{first}internal{last}"]) for first, last in ("()", "[]", "{}")),
        ("c(1);set()", ";", ["c(1)", "set()"]),
        ("- joy\n- anger", ";", ["- joy\n- anger"]),
        (["a;b", "(c)"], ";", ["a;b", "(c)"]),
        (":);:(", ";", [":)", ":("]),
        ("[(a;b);c]", ";", ["[(a", "b)", "c]"]),
        ("['joy', <NA>]", None, None),
        ("joy, anger", None, None),
        ("- joy\n- anger", None, ["joy", "anger"]),
        ("", ";", []),
        (" \t", ";", []),
        (None, ";", []),
        (float("nan"), ";", []),
        (3, ";", ["3"]),
        ("1;2.0;True", ";", ["1", "2", "true"]),
        (True, ";", ["true"]),
        ("['a;b', 'c']", None, ["a;b", "c"]),
        ("[a];b", ";", ["[a]", "b"]),
        ("joy", None, None),
        ("['joy'", None, None),
        ("{'joy': 1}", None, None),
        ("[['joy']]", None, None),
        ([["joy"]], None, None),
        ([{"joy": 1}], None, None),
        ("[__import__('os').getcwd()]", None, None),
        ("[" * 9_000 + "]" * 9_000, None, None),
        ('" ' * 5_000 + '"', None, None),
        ("['it\\'s', \"so\"]", None, ["it's", "so"]),
        ('["\\ud83d\\ude00"]', None, ["😀"]),
        (["joy", None, "", "joy"], None, ["joy"]),
        ([1, 2.0, True, "TRUE"], None, ["1", "2", "true"]),
        ("[1, 'x', -2.0, True, nan, None]", None, ["1", "x", "-2", "true"]),
        ([0.5, "0.5"], None, ["0.5"]),
        ([float("inf")], None, None),
    ],
)
def test_the_labels_of_a_cell(cell: Any, separator: str | None, found: list[str] | None) -> None:
    assert labels_in(cell, separator) == found


@pytest.mark.parametrize(
    ("found", "cells"),
    [
        ([], ["[]", " [ ] ", "{}", "()", "set()", "character(0)", "c()", "[null]", "[None]", '"[]"', "[nan]"]),
        (["joy"], ["[joy]", "(joy)", "{joy}", "['joy']", '["joy"]', "('joy',)", 'c("joy")', "[ joy ]", "['joy',]"]),
        (["joy", "sad"], ["[joy, sad]", "[joy,sad]", "(joy, sad)", "{joy,sad}", "{NULL,joy,sad}", "[joy, sad, null]"]),
        (["joy", "sad"], ['["joy","sad"]', "['joy', 'sad']", "('joy', 'sad')", '("joy","sad")', "{'joy', 'sad'}"]),
        (
            ["joy", "sad"],
            ["[u'joy', u'sad']", "frozenset({'joy', 'sad'})", 'c("joy", "sad", NA)', 'list("joy", "sad")'],
        ),
        (["joy", "sad"], ["['joy' 'sad']", "['joy'\n 'sad']", "array(['joy', 'sad'],\n      dtype=object)"]),
        (["joy", "sad"], ["[np.str_('joy'), np.str_('sad')]", "[‘joy’, ‘sad’]", "[“joy”, “sad”]"]),
        (["joy", "sad"], ['[""joy"", ""sad""]', '"[""joy"",""sad""]"', '"[\\"joy\\", \\"sad\\"]"']),
        (["very happy", "don't know"], ["[very happy, don't know]", '{"very happy",don\'t know}']),
        (["very, happy", "so"], ['{"very, happy",so}', "['very, happy', 'so']"]),
        (["007", "7", "1_0"], ["[007, 7, 1_0]", "{007,7,1_0}", "['007' '7' '1_0']"]),
        (["1", "2"], ["[1 2]", "[1. 2.]", "[1, 2]", "{1,2}", "c(1, 2)", "[+1, 2.0]", "[1.0 2.0]"]),
    ],
)
def test_lists_are_read_as_lists(found: list[str], cells: list[str]) -> None:
    assert {cell: labels_in(cell, None) for cell in cells} == dict.fromkeys(cells, found)


@pytest.mark.parametrize(
    "cell",
    [
        "{'joy': 1}",
        "{joy: 1, sad: 0}",
        "['joy' ... 'sad']",
        "[joy, ..., sad]",
        "['it''s']",
        "[joy, 'sad']",
        "[[joy, sad], [love]]",
        '[{"label": "joy"}]',
        "[b'joy']",
        "[`joy`, `sad`]",
    ],
)
def test_ambiguous_brackets_are_refused(cell: str) -> None:
    assert labels_in(cell, None) is None


@pytest.mark.parametrize(
    ("cells", "wrong"),
    [
        (["['joy', 'sad']", "['joy']", "[]", ""], []),
        (["{'joy', 'sad'}", "set()", "frozenset({'joy'})"], []),
        (['c("joy", "sad")', "joy", "character(0)", "very happy"], []),
        (["['joy', 'sad']", "joy", "don't know"], []),
        (["- joy\n- sad", "[]", "- joy", "{}"], []),  # a YAML list in lines cannot be empty
        (["[]", "- joy", "[joy]"], [2]),
        (["[joy, sad]", "[joy]", "(internal)"], [2]),
        (["['joy', 'sad']", "['joy']", "(internal)", "{sad}"], [2, 3]),
        (["[joy, sad]", "[joy]", "joy"], [2]),  # without quotation marks, [joy] may be a name
        (["['joy']", "['sad']", "sad, joy", "joy;sad", "'joy'"], [2, 3, 4]),
        ([["joy"], "sad", "(internal)", "['sad']", ("sad",), None], [1, 2, 3]),
    ],
)
def test_the_format_of_lists_is_detected_from_the_whole_column(cells: list[Any], wrong: list[int]) -> None:
    assert [i for i, found in enumerate(read_cells(cells, None)) if found is None] == wrong


def test_the_format_of_lists_is_detected_before_the_rows_are_split(tmp_path: Path) -> None:
    """The validation row and the test row are words, not lists."""
    words = rows(lambda labels: f"c({json.dumps(labels)[1:-1]})" if len(labels) != 1 else labels[0])
    cut = {"validation": 1, "test": 1}
    dataset = loaded(source=write(tmp_path / "a.csv", words), labels={"column": "emotions"}, split=cut)
    assert dataset.task == Task("multi-label", tuple(LABELS))
    assert (
        dataset.fingerprint == loaded(source=write(tmp_path / "b.csv", flags()), labels=LABELS, split=cut).fingerprint
    )


@pytest.mark.parametrize(
    ("lists", "words", "read"),
    [
        (["c('joy', 'sad')", "joy", "sad"], ["joy", "sad"], True),
        (["['joy', 'sad']", "['joy']"], ["joy", "", "sad"], True),
        (["['joy', 'sad']", "['joy']"], ["c('joy')", "sad"], True),  # each file's own lists show its format
        (["[joy, sad]", "[joy]"], ["joy", "sad"], False),
        (["['joy', 'sad']", "(joy)"], ["joy", "sad"], False),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_format_of_lists_is_detected_from_all_files(
    tmp_path: Path, lists: list[str], words: list[str], read: bool, reverse: bool
) -> None:
    files = [
        write(tmp_path / f"{name}.csv", [{"text": f"{name} {i}", "c": cells[i % len(cells)]} for i in range(12)])
        for name, cells in (("lists", lists), ("words", words))
    ]
    train, validation = files[:: -1 if reverse else 1]
    settings = {"train": train, "validation": validation, "labels": {"column": "c"}}
    if read:
        assert loaded(**settings).task == Task("multi-label", ("joy", "sad"))
    else:
        assert "the other rows" in refusal(**settings)
    assert bool(data.find_mistakes(checked(**settings))) is not read


def test_names_in_brackets_are_labels_if_there_is_a_separator(tmp_path: Path) -> None:
    table = [
        {"text": f"text {i}", "c": ["bug;(internal)", "(internal)", "[ui]", "{x}", "bug", "[ui];[y]"][i % 6]}
        for i in range(40)
    ]
    for ending in FORMATS:
        said: list[str] = []
        source = write(tmp_path / f"a{ending}", table)
        dataset = loaded(said, source=source, labels={"column": "c", "separator": ";"}, split={"validation": 12})
        assert set(dataset.task.labels) == {"bug", "(internal)", "[ui]", "{x}", "[y]"} and not said


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("cell", [str, lambda labels: f"[{', '.join(labels)}]", lambda labels: str({"a": 1})])
def test_a_column_of_lists_only_is_not_split_at_a_separator(tmp_path: Path, cell: Any, separator: str) -> None:
    path = write(tmp_path / "a.csv", rows(cell))
    said = refusal(source=path, labels={"column": "emotions", "separator": separator})
    assert said.endswith("to read it as a list, leave the separator out: labels: {column: emotions}")


LEAVE, AS_OTHERS = "leave it out: labels: {column: c}", "write them as in the other rows"


@pytest.mark.parametrize(
    ("written", "others", "separator", "mend"),
    [
        ("['joy', 'anger']", "joy", ",", LEAVE),
        ('c("joy", "anger")', "joy", ",", LEAVE),
        ("['joy' 'anger']", "joy", " ", LEAVE),
        ("['joy', 'anger']", "joy,anger", ",", AS_OTHERS),
        ("['joy', 'anger']", "joy;anger", ";", AS_OTHERS),
        ("['very happy']", "joy anger", " ", AS_OTHERS),
        ('"[""joy"",""anger""]"', "joy,anger", ",", AS_OTHERS),
        ("{'joy': 1, 'anger': 1}", "joy,anger", ",", AS_OTHERS),
        ('c("joy", "anger")', "(internal),[bug]", ",", AS_OTHERS),
    ],
)
def test_a_list_among_separated_cells_is_refused_with_its_row(
    tmp_path: Path, written: str, others: str, separator: str, mend: str
) -> None:
    table = [{"text": f"text {i}", "c": others if i % 2 else "love"} for i in range(40)]
    table[30]["c"] = written
    for ending in (".csv", ".jsonl"):
        said = refusal(source=write(tmp_path / f"a{ending}", table), labels={"column": "c", "separator": separator})
        assert "in row 31: written lists cannot be split at a separator" in said and said.endswith(
            f"({separator!r}); {mend}"
        )


@pytest.mark.parametrize("cell", ["(a, b)", "bug, (in, out)", "[a],[b]", "- a,- b", "list(a, b)", "'a', 'b'", "c(a),d"])
def test_unquoted_names_in_brackets_are_split_like_any_others(tmp_path: Path, cell: str) -> None:
    table = [{"text": f"text {i}", "c": cell if i == 30 else "ab"[i % 2]} for i in range(40)]
    source = write(tmp_path / "a.csv", table)
    labels = loaded(source=source, labels={"column": "c", "separator": ","}, split={"validation": 8}).task.labels
    assert set(labels) == {"a", "b", *map(str.strip, cell.split(","))}


@pytest.mark.parametrize(
    ("cell", "labels", "said"),
    [
        (
            ";".join,
            {"column": "emotions"},
            "expected a list, such as ['joy', 'anger'], written as in the other rows; if labels have a separator, name "
            'it: labels: {column: emotions, separator: ";"}',
        ),
        (lambda labels: {"a": 1}, {"column": "emotions", "separator": ";"}, "expected labels separated by ';'"),
        (lambda labels: ["anger"], "emotions", "column emotions has only one label ('anger')"),
        (lambda labels: [], "emotions", "column emotions has no labels"),
        (lambda labels: [int(name in labels) for name in LABELS], "emotions", "each list has 3 zeros and ones"),
        (
            lambda labels: str([int(name in labels) for name in LABELS]),
            {"column": "emotions"},
            "each list has 3 zeros",
        ),
        (
            lambda labels: " ".join(str(name in labels) for name in LABELS),
            {"column": "emotions", "separator": " "},
            "each list has 3 zeros and ones",
        ),
        (lambda labels: labels if labels != ["anger"] else 0.5, "emotions", "column emotions: 0.5 in rows"),
        (list, ["emotions", "joy"], "with several label columns, each must hold 0 or 1"),
    ],
)
def test_a_column_with_other_values_than_expected_is_refused(tmp_path: Path, cell: Any, labels: Any, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row | {"joy": 1}) + "\n" for row in rows(cell)))
    message = refusal(source=path, labels=labels)
    assert said in message and message.startswith(str(path))


@pytest.mark.parametrize("several", [False, True], ids=["one class", "a list"])
def test_a_name_that_no_database_can_store_is_refused_before_a_study_is_created(tmp_path: Path, several: bool) -> None:
    long = ["x" * (MAX_NAME_LENGTH + 1), "y" * MAX_NAME_LENGTH]
    path = tmp_path / "a.jsonl"
    lines = [{"text": f"text {i}", "emotions": [name] if several else name} for i, name in enumerate(long * 5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = refusal(source=path, labels="emotions")
    assert said.startswith(f"{path}: the name of a class or label has 10,001 characters") and len(said) < 1000
    assert MAX_NAME_LENGTH <= MAX_CHARACTERS


def test_a_validation_class_that_looks_like_a_training_class_is_reported_with_it(tmp_path: Path) -> None:
    dev = column(tmp_path, ".jsonl", ["cafe\u0301", "tea"], name="dev")
    said = refusal(train=column(tmp_path, ".csv", ["caf\u00e9", "tea"]), validation=dev, labels="c")
    assert r"no row for training has it; 'cafe\u0301' and 'caf\xe9' differ by " in said


def test_a_label_that_only_validation_has_is_reported_with_its_rows(tmp_path: Path) -> None:
    dev = [{"text": f"other {i}", "emotions": "anger" if i else "joy; anger"} for i in range(9)]
    train = write(tmp_path / "a.csv", rows(";".join))
    message = refusal(
        train=train,
        validation=write(tmp_path / "dev.csv", dev),
        labels={"column": "emotions", "separator": ";"},
    )
    assert "dev.csv: column emotions: 'joy' in row 1: " in message and "training" in message


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        (";".join, {"column": "emotions", "separator": ";"}),
        ("|".join, {"column": "emotions", "separator": "|"}),
        (", ".join, {"column": "emotions", "separator": ","}),
        (" / ".join, {"column": "emotions", "separator": "/"}),
        (str, {"column": "emotions"}),
        (json.dumps, {"column": "emotions"}),
        (lambda labels: f"[{', '.join(labels)}]", {"column": "emotions"}),
        (" ".join, {"column": "emotions", "separator": " "}),
        (" and ".join, {"column": "emotions", "separator": " and "}),
        (
            lambda labels: f"c({json.dumps(labels)[1:-1]})" if len(labels) > 1 else "".join(labels),
            {"column": "emotions"},
        ),
    ],
)
def test_one_warning_shows_the_key_for_classes_that_look_like_several_labels(
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
        ["sport/football", "sport/tennis", "politics/home", "politics/abroad"],  # paths in a tree
        ["rec.autos", "rec.sport.hockey", "sci.med"],
        ["R&B", "AC/DC", "hip hop"],
        ["yes, please", "no, thanks", "maybe"],
        ["[deleted]", "kept", "removed"],
        ["(internal)", "[deleted]", "{x}", "bug"],
        ["card; lost", *(f"intent {i}" for i in range(9))],
        ["-1", "0", "1"],
        ["C", "C#", "C++"],
        ["New York", "Los Angeles", "New Jersey", "York"],
        ["new car", "used car", "new bike", "used bike"],
        ["arts and crafts", "food & drink", "arts", "food"],
        ["0-10", "10-20", "20-30", "30-40"],
        ["1-0", "0-1", "1-1", "2-1", "1-2", "0-0"],
        ["1", "1.2", "2.1", "2", "1.1"],
        ["half-true", "true", "barely-true"],
        ["very_negative", "negative", "very_positive", "positive"],
        ["alarm_set", "alarm_query", "audio_query", "audio_set", "music_query"],
        ["B-PER", "I-PER", "B-LOC", "I-LOC", "O"],
        ["en-US", "en-GB", "de-DE", "de-AT", "fr-FR"],
        ["World", "Sports", "Business", "Sci/Tech"],
        ["0,0", "1,0"],  # numbers with a decimal comma
    ],
)
def test_names_that_contain_a_separator_are_not_taken_for_joined_labels(classes: list[str]) -> None:
    assert list(label_warnings(Task("single-label", tuple(classes)), "class")) == []


@pytest.mark.parametrize(
    "classes",
    [
        ["joy", "anger", "fear", "love", "joy;anger"],  # one of five, and both parts are classes too
        ["joy;anger", "fear;love"],
        ["joy + anger", "joy", "anger"],
        ["joy#anger", "joy#fear", "fear#anger"],
        ["1 5", "5", "1", "1 5 7", "7"],
    ],
)
def test_names_that_join_other_names_are_reported(classes: list[str]) -> None:
    (said,) = label_warnings(Task("single-label", tuple(classes)), "class")
    assert "look like labels joined by" in said


@pytest.mark.parametrize(
    "mark",
    [
        *(
            " ",
            "  ",
            "\u3000",
            "\n",
            "\t",
            "_",
            "-",
            " - ",
            ".",
            ":",
            "::",
            "&",
            "&&",
            " and ",
            " y ",
            "<br>",
            "；",
            "、",
        ),
        *("，", " / ", "||", "~", "\\", " • ", "=>", "->", "+", "#", "@", "*", ", ", ";", "__", "'", "·"),
    ],
)
@pytest.mark.parametrize(
    "sets",
    [
        ["joy", "anger", "fear", "love", "joy anger"],
        ["anger", "anger joy", "fear", "fear joy", "anger fear joy", "joy"],
        ["anger fear", "fear joy", "anger joy", "anger fear joy"],
        ["😀 😢", "😢 😡", "😀 😡", "😀 😢 😡"],
    ],
)
def test_any_separator_is_found_from_the_names_alone(mark: str, sets: list[str]) -> None:
    classes = [name.replace(" ", mark) for name in sets]
    (said,) = label_warnings(Task("single-label", tuple(classes)), "c")
    separator = yaml.safe_load(said.partition("several labels: ")[2])["labels"]["separator"]
    assert {label for labels in read_cells(classes, separator) for label in label_names(labels or ()) or ()} == set(
        " ".join(sets).split()
    )
    (said,) = label_warnings(Task("multi-label", tuple(classes)), "c")  # they were split at another separator
    assert "labels look like labels joined by" in said


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["[joy", "anger]", "[fear]", "love"], "3 of 4 labels look like fragments of lists, such as '[joy'"),
        (["'joy'", "'anger'"], "all labels look like fragments of lists"),
        (["[joy", "anger]", *"abcdefgh"], "2 of 10 labels look like fragments of lists, such as '[joy'"),
        (['["joy"]', '["anger", "joy"]'], "all labels look like lists of labels"),
    ],
)
def test_labels_that_are_fragments_of_lists_are_reported(labels: list[str], said: str) -> None:
    assert any(said in doubt for doubt in label_warnings(Task("multi-label", tuple(labels)), "c"))


@pytest.mark.parametrize(
    "labels",
    [
        ["Diabetes (type 1)", "Diabetes (type 2)", "Asthma", "Flu"],
        ["World Health Organization (WHO)", "European Union (EU)", "United Nations (UN)"],
        ["bug (internal)", "bug (external)", "feature", "question"],
        ["[PC] Game", "[PS5] Game", "[Xbox] Game", "Other"],
        ["'80s", "'90s", "'00s"],
        ['11"', '13"', '15"'],
        ["Men's", "Women's", "Kids'", "Boys'"],
        [":)", ":(", ":D"],
        ["(internal)", "(external)"],
        ['{"a": 1}', '{"a": 2}'],
    ],
    ids=lambda labels: labels[0],
)
def test_names_with_a_bracket_or_quote_at_one_end_are_names(labels: list[str]) -> None:
    assert not [said for said in label_warnings(Task("single-label", tuple(labels)), "c") if "lists" in said]


@pytest.mark.parametrize("odd", [["(:", ":)"], ["a)", "b)"], ["[x", "y)"], ["(internal)", "[ui]"], ["f(x", "y)"]])
def test_a_few_names_with_brackets_are_not_fragments_of_lists(odd: list[str]) -> None:
    assert not list(label_warnings(Task("multi-label", (*odd, *"cdefgh")), "column"))


def test_thousands_of_names_are_checked_in_a_moment() -> None:
    drawn = random.Random(0)
    names = sorted({", ".join(drawn.sample([f"tag {i}" for i in range(400)], 5)) for _ in range(9_000)})
    begun = time.process_time()
    (said,) = label_warnings(Task("single-label", tuple(names)), "c")
    assert "joined by ','" in said and time.process_time() - begun < 10


# Classes in every spelling


def column(folder: Path, ending: str, values: list[Any], kind: Any = None, name: str = "a") -> Path:
    """A file of forty rows that take these classes in turn. `name` names the file and its texts."""
    texts, cells = [f"{name} {i}" for i in range(40)], (values * 40)[:40]
    path = folder / f"{name}{ending}"
    if ending == ".parquet":
        parquet.write_table(pyarrow.table({"text": texts, "c": pyarrow.array(cells, kind)}), path)
        return path
    return write(path, [{"text": text, "c": cell} for text, cell in zip(texts, cells, strict=True)])


ZEROS_AND_ONES: list[tuple[str, list[Any], Any]] = [
    *((ending, [1, 0], None) for ending in FORMATS),
    *((".parquet", [1, 0], kind) for kind in (pyarrow.int8(), pyarrow.uint64(), pyarrow.float16(), pyarrow.float64())),
    (".parquet", [Decimal("1.00"), Decimal(0)], pyarrow.decimal128(6, 2)),
    (".parquet", ["1.0", "0.0"], pyarrow.dictionary(pyarrow.int8(), pyarrow.string())),
    (".jsonl", [1, 0.0, "1", -0.0], None),
]
BOOLEANS: list[tuple[str, list[Any], Any]] = [
    *((ending, pair, None) for ending in FORMATS for pair in (["true", "false"], ["True", "False"], ["TRUE", "FALSE"])),
    *((ending, [True, False], None) for ending in FORMATS),
    (".parquet", ["true", "false"], pyarrow.large_string()),
    (".parquet", ["True", "FALSE"], pyarrow.dictionary(pyarrow.int8(), pyarrow.string())),
    (".jsonl", [True, "false", 1, 0.0, "1", False], None),
]


@pytest.mark.parametrize(("cells", "classes"), [(ZEROS_AND_ONES, ("0", "1")), (BOOLEANS, ("false", "true"))])
def test_booleans_give_the_same_classes_in_every_format_and_so_do_zeros_and_ones(
    tmp_path: Path, cells: list[tuple[str, list[Any], Any]], classes: tuple[str, str]
) -> None:
    found = set()
    for ending, values, kind in cells:
        path = column(tmp_path, ending, values, kind)
        found.add(loaded(source=path, labels="c").fingerprint)
        # the validation file may use words or numbers, whatever the training file's format
        for pair in (["True", "False"], [1, 0]):
            other = column(tmp_path, ".csv", pair, name="dev")
            dataset = loaded(train=path, validation=other, labels="c")
            assert dataset.task == Task("single-label", classes) and dataset.validation.labels[:2].tolist() == [1, 0]
    assert len(found) == 1


def test_each_of_several_columns_may_spell_its_values_differently(tmp_path: Path) -> None:
    found = set()
    for ending, values, kind in ZEROS_AND_ONES + BOOLEANS:
        path = column(tmp_path, ending, values, kind)
        table = data.read_table(str(path), "data.train", ["text", "c"], data.TextFormat(), print)
        if ending == ".parquet":
            both = parquet.read_table(path)
            parquet.write_table(both.append_column("d", pyarrow.array([True] * 40)), path)
        else:
            write(path, [{"text": t, "c": c, "d": "True"} for t, c in zip(*table.columns.values(), strict=True)])
        found.add(loaded(source=path, labels=["c", "d"]).fingerprint)
    assert len(found) == 1


VALUES: list[list[Any]] = [
    [True, "x", False],
    [True, "x", 1, "1.0", " x ", "TRUE"],
    [0, -0.0, 1, "-0", 2],
    [1.0, 1e16, -1e300, 2**53 + 1, 2**70],
    [0.5, 1.5, 4],
    ["caf\u00e9", "cafe\u0301", "caf\u00e9\u200b"],
]


@pytest.mark.parametrize("values", VALUES, ids=str)
@pytest.mark.parametrize("several", [False, True])
def test_one_table_has_the_same_classes_in_every_format(tmp_path: Path, values: list[Any], several: bool) -> None:
    """As programs write them: a format without types spells out what another one stores as a type."""
    one_type = len({type(value) for value in values}) == 1
    kinds: list[tuple[str, list[Any]]] = [(ending, values) for ending in FORMATS if one_type or ending != ".parquet"]
    kinds += [(".parquet", [str(value) for value in values])]
    labels: Any = {"column": "c", "separator": ";"} if several else "c"
    found = set()
    for ending, cells in kinds:
        if several and ending in (".csv", ".tsv"):
            cells = [f"{cell}; {cells[0]}" for cell in cells]
        elif several:
            cells = [[cell, cells[0]] for cell in cells]
        dataset = loaded(source=column(tmp_path, ending, cells), labels=labels)
        found.add((dataset.task, dataset.fingerprint))
    assert len(found) == 1, found


@pytest.mark.parametrize("values", [["true", "half-true", "false"], ["True", "False", "unknown"], ["yes", "no"]])
def test_words_such_as_true_among_other_names_stay_names(tmp_path: Path, values: list[str]) -> None:
    names = tuple(sorted(value.lower() for value in values))
    assert loaded(source=column(tmp_path, ".csv", values), labels="c").task.labels == names


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
        *(
            (value, "1")
            for value in (1, 1.0, "1", " 1.00", "+1", "1.", "+1.0", np.int64(1), np.float32(1), Decimal("1.0"))
        ),
        *((value, "true") for value in (True, np.True_, "True", " TRUE ", "true")),
        *(
            (value, None)
            for value in (
                None,
                "",
                " ",
                float("nan"),
                float("inf"),
                Decimal("NaN"),
                [1],
                {},
                b"joy",
                "\ud800",
                "a\udfff",
            )
        ),
        *((value, "0") for value in (0, -0.0, "0.0", "-0.0", "-0", Decimal("-0"))),
        *(
            (value, value)
            for value in ("01", "+01", "007.0", "1e0", "1E6", "1.5", "1.10", "٣", "1_0", "0x1", "1e+9999")
        ),
        *((value, "1.5") for value in (1.5, np.float64(1.5), Decimal("1.5"))),
        (2**70, str(2**70)),
        *((value, str(10**20)) for value in (1e20, "1e+20", "1E+20", "1.0E20")),
        *((value, "0.1") for value in (0.1, "0.1", np.float32(0.1), np.float16(0.1), Decimal("0.1"))),
    ],
)
def test_a_cell_names_its_class(value: Any, name: str | None) -> None:
    assert class_name(value) == name


@pytest.mark.parametrize(
    ("value", "name"), [(True, "1"), ("True", "True"), ("-0", "-0"), ("-0.0", "0"), (0.5, None), ("1e+20", "1e+20")]
)
def test_a_cell_named_its_class_in_version_0_1(value: Any, name: str | None) -> None:
    assert class_name(value, as_0_1=True) == name


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (
            ["caf\u00e9", "cafe\u0301", "tea"],
            r"'caf\xe9' and 'cafe\u0301' are separate classes",
        ),
        (["tea", "#N/A"], "the class #N/A looks like a missing label"),
        (["tea", "class"], "'class' is also a class; if the header is repeated in the file, remove that row"),
        (["tea", "tea\u200b"], r"'tea' and 'tea\u200b' are separate classes"),
        (["tea", "Ｔea"], "'tea' and 'Ｔea' are separate classes"),
        (["joy", "jo\0y"], r"'joy' and 'jo\x00y' are separate classes"),
        (["joy", "jo\x1cy"], r"'joy' and 'jo\x1cy' are separate classes"),
        (["\u2764", "\u2764\ufe0f"], r"'\u2764' and '\u2764\ufe0f' are separate classes"),
        (["so so", "so\u00a0 so"], r"'so so' and 'so\xa0 so' are separate classes"),
        (["joy", "jo\u034fy"], r"'joy' and 'jo\u034fy' are separate classes"),
        (["STRASSE", "stra\u00dfe", "tea"], "'STRASSE' and 'straße' are separate classes"),
        ([f"{name}{i}" for name in "Aa" for i in range(9)], "'A2' and 'a2' and 6 more are separate classes"),
        (
            [f"{i / 97:.3f}" for i in range(50)],
            "50 classes are numbers such as '0.000'; if it is a measurement, divide it",
        ),
    ],
)
def test_classes_that_look_alike_or_are_measurements_are_reported(classes: list[str], said: str) -> None:
    (doubt,) = label_warnings(Task("single-label", tuple(classes)), "class")
    assert said in doubt


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


def test_no_two_names_have_the_same_position_in_the_order() -> None:
    rng = np.random.default_rng(0)
    first = sorted(ALIKE, key=sort_key)
    assert len({sort_key(name) for name in ALIKE}) == len(ALIKE)
    for _ in range(50):
        assert sorted(rng.permutation(np.array(ALIKE, object)).tolist(), key=sort_key) == first
    numbers = [name for name in first if name.removeprefix("-").isdecimal()]
    assert first[: len(numbers)] == numbers and numbers[:4] == ["-01", "-1", "-0", "0"]
    assert numbers[4:10] == ["00", "001", "01", "1", "007", "7"]  # equal values are in alphabetical order


HASHED = """
import sys
from peftsweep.config import DataConfig, SplitConfig
from peftsweep.data.splits import split_table
from peftsweep.data.labels import label_array, task_of
from peftsweep.data.table import Table

names, texts = sys.argv[1].split(), [f"text {i % 90}" for i in range(120)]
joined = [f"{one};{other}" for one, other in zip(names * 12, (names[3:] + names) * 12)]
table = Table("a", {"text": texts, "one": (names * 12)[:120], "all": joined[:120]}, list(range(120)))
for labels in ("one", {"column": "all", "separator": ";"}):
    config = DataConfig.model_validate({"train": "a.csv", "text": "text", "labels": labels})
    task = task_of(config, table)
    parts = split_table(table, texts, label_array(config, table, task), SplitConfig(test=0.2), print)
    print(task, {name: part.rows for name, part in parts.items()})
"""


def test_neither_classes_nor_splits_depend_on_the_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sorted` leaves names with equal keys in the order of their set, which differs between processes."""
    names = " ".join(ALIKE[:12])
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", HASHED, names]
    other = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    monkeypatch.setattr(sys, "argv", ["-c", names])
    exec(HASHED, {})
    assert capsys.readouterr().out == other and "'01'" in other
