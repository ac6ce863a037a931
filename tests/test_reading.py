"""Files as people have them: separators of rows and fields, headers, and files that are no tables."""

from __future__ import annotations

import os
import random
from functools import partial
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from peftsweep.data.table import unique_names
from tests.reading import ENDINGS, read, refused, works_or_gives_one_error, written
from tests.test_data import loaded, refusal

# Separators of rows and fields


@pytest.mark.parametrize("mark", [";", ",", "\t", "|"])
@pytest.mark.parametrize("line", ["sep={}\n", "sep={}\r\n", '"sep={}"\r\n', "\ufeffSEP={}\n", "sep={}"])
def test_excel_s_first_line_names_the_separator(tmp_path: Path, mark: str, line: str) -> None:
    path = tmp_path / "a.csv"
    body = "".join(f"{line}\n" for line in (f"text{mark}mood", f'"a, {mark} b"{mark}m', f"c{mark}"))
    path.write_text(line.format(mark) + ("" if line.endswith("\n") else "\n") + body, encoding="utf-8", newline="")
    table, _ = read(path, "text", "mood")
    assert table.columns == {"text": [f"a, {mark} b", "c"], "mood": ["m", ""]} and table.rows == [1, 2]
    whole = path.read_bytes()
    path.write_bytes(whole + f"x{mark}y{mark}z\n".encode())
    assert "row 3 has 3 fields, the header 2: a stray " in refused(path, "text")
    path.write_bytes(whole.replace(b"c", b"\xe9"))
    assert "row 2 " in (message := refused(path, "text")) and "utf-8 (0xe9)" in message


@pytest.mark.parametrize("line", ["sep=", "sep=,", 'sep="', "sep=,,,", "sep= "])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_excel_s_first_line_may_name_no_separator_or_have_more_text(tmp_path: Path, line: str, ends: str) -> None:
    mark = " " if line == "sep= " else ","
    path = tmp_path / "a.csv"
    path.write_bytes(f"{line}{ends}text{mark}mood{ends}one{mark}m{ends}".encode())
    assert read(path, "text", "mood")[0].columns == {"text": ["one"], "mood": ["m"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\ufeff\n\n", "is empty"),
        ("sep=;\n", "is empty"),
        ("text,mood\n", "no rows"),
        ("text, mood\na,b\n", "no column mood; it has text, ' mood'; did you mean ' mood' for mood?"),
        ("Text,MOOD\na,b\n", "no columns text, mood; it has Text, MOOD; did you mean Text for text, MOOD for mood?"),
        ('text,mood\na,b\n"c,d\ne,f\n', "row 2 is not CSV: a quotation mark that opens there is never closed"),
    ],
)
def test_a_file_that_is_no_table_gives_a_one_line_error(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    assert said in refused(path, "text", "mood")


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_may_end_as_on_any_system(tmp_path: Path, ending: str, ends: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(("\n\n" + written(ending, ["one", "two"])).replace("\n", ends).encode())
    assert read(path, "text")[0].columns == {"text": ["one", "two"]}
    path.write_bytes(path.read_bytes().replace(b"two", b"\xff"))
    number = 4 if ending == ".jsonl" else 2  # messages count lines in JSONL and rows in other formats
    assert f"row {number} " in (message := refused(path, "text")) and "utf-8" in message


def test_line_ends_of_three_systems_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,mood\r\none,m\rtwo,m\n\r\nthree,m")
    assert read(tmp_path / "a.csv", "text")[0].columns == {"text": ["one", "two", "three"]}
    (tmp_path / "a.jsonl").write_bytes('{"text": "one"}\r\n{"text": "two"}\r{"text": "a\u2028b"}\n'.encode())
    assert read(tmp_path / "a.jsonl", "text")[0].columns == {"text": ["one", "two", "a\u2028b"]}


# Headers


def test_columns_without_a_name_or_with_the_same_name_are_read(tmp_path: Path) -> None:
    path = tmp_path / "spam.csv"
    path.write_text("v1,v2,,,\nham,hello,,x,\nspam,win,1,,2\n")
    assert read(path, "v2")[0].columns == {"v2": ["hello", "win"]}
    table, _ = read(path, "v2", whole=True)
    assert list(table.columns) == ["v1", "v2", "Unnamed: 2", "Unnamed: 3", "Unnamed: 4"]
    assert table.columns["Unnamed: 4"] == ["", "2"]
    assert "no column v3; it has v1, v2, Unnamed: 2, Unnamed: 3, Unnamed: 4" in refused(path, "v3")
    path.write_text("text,a,a,text.1\nx,1,2,3\n")
    assert read(path, "text", whole=True)[0].columns == {"text": ["x"], "a": ["1"], "a.1": ["2"], "text.1": ["3"]}
    path.write_text("text,text\nx,1\n")
    assert "two columns are called text" in refused(path, "text")
    twice = pyarrow.Table.from_arrays([pyarrow.array(["x"]), pyarrow.array([1]), pyarrow.array([2])], ["text", "", ""])
    parquet.write_table(twice, tmp_path / "a.parquet")
    assert list(read(tmp_path / "a.parquet", "text", whole=True)[0].columns) == ["text", "Unnamed: 1", "Unnamed: 2"]


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ([], []),
        ([""], ["Unnamed: 0"]),
        (["a", "a", "a"], ["a", "a.1", "a.2"]),
        (["a", "a", "a.1"], ["a", "a.2", "a.1"]),
        (["a.1", "a", "a"], ["a.1", "a", "a.2"]),
        (["", "Unnamed: 0"], ["Unnamed: 0.1", "Unnamed: 0"]),
    ],
)
def test_each_column_has_a_name_of_its_own(header: list[str], names: list[str]) -> None:
    assert unique_names(header) == names


def test_a_message_does_not_list_thousands_of_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(f"c{i}" for i in range(5000)) + "\n")
    assert refused(tmp_path / "a.csv", "text").endswith("c18, c19 and 4,980 more")


def test_the_home_of_an_unknown_user_is_refused(tmp_path: Path) -> None:
    assert "'~nosuchuser/a.csv': there is no such user" in refusal(source="~nosuchuser/a.csv")


# Files that are no tables


def test_files_of_random_pieces_are_read_or_give_a_one_line_error(tmp_path: Path) -> None:
    """Lone quotation marks, zero bytes, half rows, bytes of no encoding, empty files, a header alone."""
    pieces = [
        b"text,c",
        b"text\tc",
        b'{"text": "a", "c": ["x"]}',
        b"\n",
        b"\r",
        b'"',
        b"'",
        b"\0",
        b",",
        b"\t",
        b"sep=;",
    ]
    pieces += [
        b";",
        b"\xff",
        b"\xfe",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"a",
        b"[1",
        b"{",
        b"}",
        "é€😀".encode(),
        b"9" * 40,
    ]
    drawn, settings = random.Random(1), [{}, {"encoding": "cp1252"}, {"encoding": "utf-16"}, {"quoting": True}]
    for turn in range(600):
        path = tmp_path / f"a{ENDINGS[turn % 3]}"
        path.write_bytes(b"".join(drawn.choices(pieces, k=drawn.randrange(0, 30))))
        labels = drawn.choice(["c", ["c", "text2"], {"column": "c"}, {"column": "c", "separator": ";"}])
        works_or_gives_one_error(partial(loaded, source=path, labels=labels, **drawn.choice(settings)))
    (tmp_path / "long.csv").write_text(f'text,c\n"{"a" * 3_000_000}",x\nb,y\n')
    assert len(read(tmp_path / "long.csv", "text")[0].columns["text"][0]) == 3_000_000


def test_a_key_that_a_row_has_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "c": "x"}\n{"text": "b", "c": "x", "c": "y"}\n')
    assert "row 2 is JSON that cannot be read: one object has the key 'c' twice" in refused(tmp_path / "a.jsonl", "c")


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000, f"[{'9' * 5000}]"])
def test_a_number_of_thousands_of_digits_gives_our_own_error(tmp_path: Path, number: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a", "c": 1}}\n{{"text": "b", "c": {number}}}\n')
    message = refused(tmp_path / "a.jsonl", "c")
    assert "a.jsonl: row 2 " in message and message.endswith(": a whole number of more than 4,300 digits")


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.csv")
    assert "train.csv: no plain file" in refused(tmp_path / "train.csv", "text")


def test_text_larger_than_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for ending in ENDINGS:
        file = tmp_path / f"train{ending}"
        with file.open("wb") as hole:
            hole.truncate(1 << 40)  # a sparse file takes no disk space
        assert "more than 4,294,967,296 bytes" in refused(file, "text")
