"""Rows of a CSV file that a stray quotation mark makes part of a text are reported."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from peftsweep import data
from tests.test_data import refusal

ROWS = [{"id": str(i), "text": f"text {i} of some words", "mood": "ab"[i % 2], "on": str(i % 3 % 2)} for i in range(40)]
ORDERS = [
    ["text", "mood"],
    ["mood", "text"],
    ["id", "text", "mood"],
    ["text", "id", "on", "mood"],
    ["mood", "on", "id", "text"],
]


def warnings_of(path: Path, wanted: str = "text", **form: Any) -> list[str]:
    said: list[str] = []
    data.read_table(str(path), "data.train", [wanted], data.TextFormat(**form), said.append)
    return said


@pytest.mark.parametrize("columns", ORDERS)
@pytest.mark.parametrize(("ending", "mark", "ends"), [(".csv", ",", "\n"), (".csv", ";", "\r\n"), (".tsv", "\t", "\r")])
def test_a_quotation_mark_that_is_closed_rows_later_is_reported(
    tmp_path: Path, columns: list[str], ending: str, mark: str, ends: str
) -> None:
    for rows in (1, 2, 5, 30) if "on" in columns else (5, 30):
        check(tmp_path / f"a{ending}", columns, rows, mark, ends)


def check(path: Path, columns: list[str], rows: int, mark: str, ends: str) -> None:
    spoilt = [dict(row) for row in ROWS]
    spoilt[4]["text"], spoilt[4 + rows]["text"] = '"oh, no' if mark != "," else '"oh no', 'he said it "'
    lines = [columns, *([row[column] for column in columns] for row in spoilt)]
    text = ends.join(map(mark.join, lines))
    path.write_text(f"sep=;{ends}{text}" if mark == ";" else text, newline="")
    (said,) = warnings_of(path, quoting=True)
    assert said.startswith(f"{path}: row 5 has a text of {rows + 1} lines that look like separate rows: ")
    assert said.endswith("if quotation marks mean nothing in this file: data.quoting: false")
    assert not warnings_of(path, quoting=False)


def warnings_of_rows(path: Path, columns: list[str], rows: list[list[str]]) -> list[str]:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return warnings_of(path)


TALK = "Is it so?\nYes, it is\nNo, I doubt it\nNo, never\nYes, always\nNo, well\nYes, I know"


@pytest.mark.parametrize(
    "texts",
    [
        ["Is it so?\nNo, I do not think so", "Is it so?\nNo,I do not"],
        ["Tell me, will it be,No\nso be it", "He said,Yes\nand went"],
        [TALK, TALK.replace("so?", "true?")],
        ["call(a,No\n)", "x = [\nNo,1]"],
        ['{"a": "b"\nNo,1}', '[\nNo,"x"\nYes,"y"\nNo,"z"\nNo,"u"\nNo,"v"\nYes,"w"]'],
        ["if x:\n    go(a, b)\n    return 1", "{1: 2,\n 3: 4}"],
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_lines_of_a_text_that_begin_or_end_with_a_class_are_not_mistaken_for_rows(
    tmp_path: Path, texts: list[str], first: bool
) -> None:
    plain = [["Yes", "No"][i % 2] for i in range(300)]
    rows = [[answer, texts[i // 10 % 2] if i % 10 == 0 else f"a text {i}"] for i, answer in enumerate(plain)]
    assert not warnings_of_rows(
        tmp_path / "a.csv", ["answer", "text"][:: 1 if first else -1], [r[:: 1 if first else -1] for r in rows]
    )


def test_few_lines_are_not_mistaken_for_rows_if_other_texts_show_that_quotation_marks_enclose_them(
    tmp_path: Path,
) -> None:
    rows = [[str(i % 2), str(i % 3 % 2), "f(x, y)" if i % 3 else f"[\n{i % 2},0,1\n0,1,0]"] for i in range(60)]
    assert not warnings_of_rows(tmp_path / "a.csv", ["joy", "anger", "text"], rows)


def test_reading_marks_as_plain_text_is_suggested_only_if_the_whole_file_can_be_read_so(tmp_path: Path) -> None:
    lines = [f"{'ab'[i % 2]},text {i}" for i in range(40)]
    lines[4], lines[14], lines[20] = 'a,"oh no', 'b,he said it "', 'a,"well, so"'
    path = tmp_path / "a.csv"
    path.write_text("mood,text\n" + "\n".join(lines))
    (said,) = warnings_of(path)
    assert "row 5 has a text of 11 lines" in said and said.endswith("must be doubled")


@pytest.mark.parametrize("columns", ORDERS)
def test_texts_of_many_lines_with_commas_are_not_mistaken_for_rows(tmp_path: Path, columns: list[str]) -> None:
    drawn = random.Random(0)
    pieces = ["well", " it is", ",", ", ", "\n", "\n\n", "no", '"', "a b", " 1"]
    texts = ["".join(drawn.choices(pieces, k=drawn.randrange(3, 30))) for _ in range(600)]
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(ROWS[i % 40] | {"text": f"{i} {text}"} for i, text in enumerate(texts))
    assert not warnings_of(path)


def test_an_error_about_quotation_marks_names_the_key_that_reads_them_as_plain_text(tmp_path: Path) -> None:
    for number, spoilt in enumerate(['"oh no', '"oh" no']):
        path = tmp_path / f"{number}.csv"
        path.write_text(
            "text,mood\n" + "".join(f"{i}{spoilt if i == 9 else ''},{i % 2}\n" for i in range(20)).replace('9"', '"')
        )
        assert refusal(source=path, labels="mood").endswith("data.quoting: false")
        assert not warnings_of(path, quoting=False)
