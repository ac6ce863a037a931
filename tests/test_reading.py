"""Files as people have them: encodings, marks, headers, and types of Parquet that Python has not."""

from __future__ import annotations

import codecs
import csv
import encodings
import io
import os
import pkgutil
import random
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from peftsweep import data
from peftsweep.config import DataConfig, is_text_encoding
from peftsweep.data import arrow
from peftsweep.data.table import named
from peftsweep.errors import DataError
from tests.test_data import loaded, refusal

TEXTS = ["it’s “so” good", "10 € – not", "naïve", "plain"]
ENDINGS = (".csv", ".tsv", ".jsonl")


def read(path: Path, *wanted: str, whole: bool = False, **form: Any) -> tuple[data.Table, list[str]]:
    """The table, and what was doubtful."""
    said: list[str] = []
    return data.read(str(path), "data.train", wanted, data.Form(**form), said.append, whole=whole), said


def refused(path: Path, *wanted: str, **form: Any) -> str:
    with pytest.raises(DataError) as error:
        read(path, *wanted, **form)
    assert "\n" not in str(error.value)
    return str(error.value)


def written(ending: str, texts: list[str]) -> str:
    """A file's text, with the columns `text` and `mood`."""
    if ending == ".jsonl":
        return "".join(f'{{"text": "{text}", "mood": "m"}}\n' for text in texts)
    mark = "\t" if ending == ".tsv" else ","
    return "".join(f"{line}\n" for line in [f"text{mark}mood", *(f"{text}{mark}m" for text in texts)])


def told(act: Callable[[], object]) -> None:
    """It is done or refused in one line that names the file: no other error."""
    message = "of a."
    try:
        act()
    except DataError as error:
        message = str(error)
    assert "a." in message and "\n" not in message and len(message) < 2000


# Encodings


def test_codecs_of_no_text_are_refused_and_with_every_other_a_file_is_read_or_told_to_be_broken(tmp_path: Path) -> None:
    known = {module.name for module in pkgutil.iter_modules(encodings.__path__)}
    known |= {"klingon", "", "a\0", "\ud800"}
    kept = [name for name in sorted(known) if is_text_encoding(name)]
    refused_ones = {"hex_codec", "rot_13", "zlib_codec", "punycode", "idna", "undefined", "unicode_escape", "aliases"}
    assert refused_ones.isdisjoint(kept) and len(kept) > 90
    for name in known - set(kept):
        with pytest.raises(ValueError, match=r"is no encoding of text; utf-8, latin-1 or mac_roman are some"):
            DataConfig.model_validate({"train": "a.csv", "text": "text", "labels": "c", "encoding": name})
    drawn, path = random.Random(0), tmp_path / "a.csv"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in kept:
            path.write_bytes(written(".csv", ["plain", "text"]).encode(name))
            assert read(path, "text", encoding=name)[0].columns == {"text": ["plain", "text"]}
            for _ in range(3):
                path.write_bytes("text\n".encode(name) + drawn.randbytes(40))
                told(partial(read, path, "text", encoding=name))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("texts", "bytes_of", "said", "advised"),
    [
        (TEXTS, "cp1252", "row 1 has bytes that are not utf-8 (0x92)", "cp1252"),
        (TEXTS[2:], "cp1252", "row 1 has bytes that are not utf-8 (0xef)", "latin-1"),  # both read it alike
    ],
)
def test_bytes_that_are_not_utf_8_come_with_the_encoding_that_reads_them(
    tmp_path: Path, ending: str, texts: list[str], bytes_of: str, said: str, advised: str
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(written(ending, texts).encode(bytes_of))
    assert f"{said}; if the file is in another encoding, name it: data.encoding: {advised}" in refused(path, "text")
    assert read(path, "text", encoding=advised)[0].columns["text"] == texts


WORLD = {
    "Это очень хороший день|Мне грустно сегодня|Почему ты злишься?|я люблю тебя": [
        "cp1251",
        "koi8_r",
        "cp866",
        "iso8859_5",
    ],
    "今天天气很好|我非常生气|这个产品质量不错,推荐购买": ["gb18030", "gbk"],
    "今天天氣很好|我非常生氣|這個產品品質不錯,推薦購買": ["big5"],
    "今日はとても楽しい|なぜ怒っているの|カタカナのテスト|悲しいニュースです": ["cp932", "shift_jis", "euc_jp"],
    "오늘은 정말 행복해요|왜 화가 났어요|슬픈 소식입니다": ["cp949", "euc_kr"],
    "Zażółć gęślą jaźń|dlaczego się złościsz|łódź": ["cp1250"],
    "příliš žluťoučký kůň|Proč se zlobíš|to je skvělé": ["cp1250"],
    "Σήμερα είμαι χαρούμενος|γιατί θυμώνεις": ["cp1253"],
    "أنا سعيد اليوم|لماذا أنت غاضب": ["cp1256"],
    "c’est très bon|l’été – 10 €|déjà vu|garçon|«\xa0oui\xa0»|n°\xa05|m² ³|œuvre": ["cp1252"],
    "¿Qué pasa, señor?|¡Feliz año!|corazón|Größe für süße Äpfel|Ørsted på ærø": ["latin-1", "cp1252"],
}


@pytest.mark.parametrize(("texts", "encoding"), [(texts, name) for texts, names in WORLD.items() for name in names])
def test_what_is_advised_reads_the_file_and_shows_how(tmp_path: Path, texts: str, encoding: str) -> None:
    rows, path = texts.split("|"), tmp_path / "a.tsv"
    path.write_bytes(written(".tsv", rows).encode(encoding))
    advised = refused(path, "text").partition("data.encoding: ")[2]
    first, _, shown = advised.partition(" (it then reads ")
    assert read(path, "text", encoding=first)[0].columns["text"] == rows
    assert shown.partition("'")[2][:4] in texts
    western = encoding in ("latin-1", "cp1252")
    assert ("cp1252" in advised or "latin-1" in advised) == western
    said = read(path, "text", encoding="cp1252" if western else "latin-1")[1]  # where a study takes it for western
    assert [doubt.partition("data.encoding: ")[2] for doubt in said] == [advised] * (not western)


def test_letters_that_are_those_of_iceland_or_of_turkey_are_shown_as_both(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(written(".csv", ["Kızgınım", "şaşırtıcı ığdır"]).encode("cp1254"))
    said = refused(path, "text")
    assert "data.encoding: latin-1 (it then reads 'þaþýrtýcý ýðdýr,m'), or cp1254 (it then reads 'şaşırtıcı" in said


def test_a_file_in_utf_8_that_is_said_to_be_something_else_is_advised_to_be_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(written(".csv", TEXTS), encoding="utf-8")
    assert refused(path, "text", encoding="ascii").endswith("name it: data.encoding: utf-8")


@pytest.mark.parametrize("ending", ENDINGS)
def test_latin_1_is_warned_about_where_it_makes_control_characters_of_quotation_marks(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(written(ending, TEXTS).encode("cp1252"))
    table, (said,) = read(path, "text", encoding="iso8859-1")
    assert table.columns["text"][0] == "it\x92s \x93so\x94 good"
    assert said.startswith(f"{path}: bytes such as 0x80 are control characters in latin-1; if it is from Windows: ")
    assert "data.encoding: cp1252 (it then reads " in said and "it’s “so” good" in said
    assert not read(path, "text", encoding="cp1252")[1]
    path.write_bytes(written(ending, TEXTS[2:]).encode("latin-1"))
    assert not read(path, "text", encoding="latin-1")[1]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("said", ["utf-8", "cp1252", "utf-16-le"])
def test_a_mark_at_the_beginning_says_the_encoding_whatever_the_study_says(
    tmp_path: Path, ending: str, said: str
) -> None:
    whole, path = written(ending, TEXTS), tmp_path / f"a{ending}"
    for mark, encoding in [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ]:
        path.write_bytes(mark + whole.encode(encoding))
        table, doubts = read(path, "text", encoding=said)
        assert table.columns == {"text": TEXTS} and not doubts
    path.write_bytes(codecs.BOM_UTF16_LE + whole.encode("utf-16-le")[:-1])
    assert (
        "has bytes that are not utf-16" in (message := refused(path, "text"))
        and "the mark at its beginning says" in message
    )


@pytest.mark.parametrize("named", ["utf-8", "cp1252", "utf-16", "utf-32-be"])
@pytest.mark.parametrize(
    "texts", [["plain", "text"], TEXTS, ["彼は走った", "犬と猫が好き"]], ids=["ascii", "west", "east"]
)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_utf_16_without_a_mark_is_recognised(tmp_path: Path, encoding: str, texts: list[str], named: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(written(".csv", texts * 9).encode(encoding))
    assert read(path, "text", encoding=encoding)[0].columns["text"] == texts * 9
    if encoding == "utf-16-le" and named == "utf-16":  # this machine's own order
        assert read(path, "text", encoding=named)[0].columns["text"] == texts * 9
    else:
        said = f"its bytes look like {encoding}, without a mark that says so; name it: data.encoding: {encoding}"
        assert refused(path, "text", encoding=named).endswith(said)


@pytest.mark.parametrize("ending", ENDINGS)
def test_noughts_in_a_text_are_read_as_they_are(tmp_path: Path, ending: str) -> None:
    nul = "\\u0000" if ending == ".jsonl" else "\0"
    path = tmp_path / f"a{ending}"
    path.write_bytes(written(ending, [f"a{nul}b", "c", f"{nul * 3}d"]).encode())
    assert read(path, "text")[0].columns["text"] == ["a\0b", "c", "\0\0\0d"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("named", ["cp1252", "latin-1", "cp1250", "shift_jis"])
def test_utf_8_that_is_read_as_something_else_is_told(tmp_path: Path, ending: str, named: str) -> None:
    path = tmp_path / f"a{ending}"
    for spoilt in (b"", b"\xe9"):  # a row of another encoding among them
        path.write_bytes(written(ending, ["naïve – €", "plain", "café", "SPOILT"]).encode().replace(b"SPOILT", spoilt))
        try:
            said = " ".join(read(path, "text", encoding=named)[1])
        except DataError as error:
            said = str(error)
        assert said.endswith("data.encoding: utf-8")
    assert "row 4 has bytes that are not utf-8 (0xe9), though most of the file is; mend that row" in refused(
        path, "text"
    )


def test_bytes_that_no_usual_encoding_has_are_told_without_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(written(".csv", TEXTS).encode("cp1252") + b"\x81,m\n")
    assert refused(path, "text", encoding="cp1252").endswith(
        "row 5 has bytes that are not cp1252 (0x81); mend that row, or name the file's encoding: data.encoding: …"
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_is_no_text_is_called_what_it_is(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    for start, what in {b"PK\x03\x04": "an Excel workbook", b"\x1f\x8b": "packed by gzip", b"PAR1": "Parquet"}.items():
        path.write_bytes(start + bytes(range(256)))
        assert f"{path} is no text but {what}" in refused(path, "text")


# What parts rows and fields


@pytest.mark.parametrize("mark", [";", ",", "\t", "|"])
@pytest.mark.parametrize("line", ["sep={}\n", "sep={}\r\n", '"sep={}"\r\n', "\ufeffSEP={}\n", "sep={}"])
def test_the_line_of_excel_says_what_parts_the_fields(tmp_path: Path, mark: str, line: str) -> None:
    path = tmp_path / "a.csv"
    body = "".join(f"{line}\n" for line in (f"text{mark}mood", f'"a, {mark} b"{mark}m', f"c{mark}"))
    path.write_text(line.format(mark) + ("" if line.endswith("\n") else "\n") + body, encoding="utf-8", newline="")
    table, _ = read(path, "text", "mood")
    assert table.columns == {"text": [f"a, {mark} b", "c"], "mood": ["m", ""]} and table.rows == [1, 2]
    whole = path.read_bytes()
    path.write_bytes(whole + f"x{mark}y{mark}z\n".encode())
    assert "row 3 has 3 fields, the header 2: a stray " in refused(path, "text")
    path.write_bytes(whole.replace(b"c", b"\xe9"))
    assert "row 2 has bytes that are not utf-8 (0xe9)" in refused(path, "text")


@pytest.mark.parametrize("line", ["sep=", "sep=,", 'sep="', "sep=,,,", "sep= "])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_the_line_of_excel_may_name_no_mark_or_have_more_after_it(tmp_path: Path, line: str, ends: str) -> None:
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
def test_a_table_that_is_none_is_told_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    assert said in refused(path, "text", "mood")


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_end_as_on_any_system(tmp_path: Path, ending: str, ends: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(("\n\n" + written(ending, ["one", "two"])).replace("\n", ends).encode())
    assert read(path, "text")[0].columns == {"text": ["one", "two"]}
    path.write_bytes(path.read_bytes().replace(b"two", b"\xff"))
    number = 4 if ending == ".jsonl" else 2  # lines of JSONL, rows of the others
    assert f"row {number} has bytes that are not utf-8" in refused(path, "text")


def test_line_ends_of_three_systems_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,mood\r\none,m\rtwo,m\n\r\nthree,m")
    assert read(tmp_path / "a.csv", "text")[0].columns == {"text": ["one", "two", "three"]}
    (tmp_path / "a.jsonl").write_bytes('{"text": "one"}\r\n{"text": "two"}\r{"text": "a\u2028b"}\n'.encode())
    assert read(tmp_path / "a.jsonl", "text")[0].columns == {"text": ["one", "two", "a\u2028b"]}


# Headers


def test_columns_without_a_name_and_of_the_same_name_are_read_along(tmp_path: Path) -> None:
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
    assert named(header) == names


def test_a_message_does_not_list_thousands_of_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(f"c{i}" for i in range(5000)) + "\n")
    assert refused(tmp_path / "a.csv", "text").endswith("c18, c19 and 4,980 more")


def test_a_home_that_nobody_has(tmp_path: Path) -> None:
    assert "'~nosuchuser/a.csv': there is no such user" in refusal(source="~nosuchuser/a.csv")


# Files that are no tables


def test_files_of_random_pieces_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    """Lone quotation marks, noughts, half rows, bytes of no encoding, empty files, a header alone."""
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
        told(partial(loaded, source=path, labels=labels, **drawn.choice(settings)))
    (tmp_path / "long.csv").write_text(f'text,c\n"{"a" * 3_000_000}",x\nb,y\n')
    assert len(read(tmp_path / "long.csv", "text")[0].columns["text"][0]) == 3_000_000


# Parquet


LARGE = 2**62


def odd(kind: pyarrow.DataType, storage: pyarrow.DataType | None = None) -> pyarrow.Array:
    """Values of which Python has none."""
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
def test_a_column_of_any_type_is_read_along_and_as_labels_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"text {i}" for i in range(30)]
    parquet.write_table(pyarrow.table({"text": texts, "c": pyarrow.chunked_array([COLUMNS[kind]] * 10)}), path)
    assert read(path, "text")[0].columns == {"text": texts}
    if kind == "no utf-8":
        assert "row 1 has bytes that are not utf-8 (0xff)" in refused(path, "c")
        return
    table, _ = read(path, "text", whole=True)
    csv.writer(io.StringIO()).writerows(zip(*table.columns.values(), strict=True))
    for settings in ({"labels": "c"}, {"labels": ["c", "text2"]}, {"labels": {"column": "c"}}):
        told(partial(loaded, source=path, **settings))


def test_moments_that_python_has_no_date_for_are_kept_as_parquet_has_them(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    moments = pyarrow.array([400_000 * 365 * 86_400 * 1000, 0]).view(pyarrow.timestamp("ms"))
    nested = pyarrow.ListArray.from_arrays([0, 1, 2], moments)
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "at": moments, "all": nested}), path)
    table, _ = read(path, "text", whole=True)
    assert "12614400000000000" in table.columns["at"][0] and table.columns["at"][1].year == 1970
    assert table.columns["all"][0] == [table.columns["at"][0]]


def test_folders_and_names_of_columns_mean_nothing_to_parquet(tmp_path: Path) -> None:
    """A folder `label=1` is a column to others, and `a.b` a field of `a`."""
    folder = tmp_path / "label=1"
    folder.mkdir()
    parquet.write_table(pyarrow.table({"a.b": ["x"], "a": [{"b": "y"}], "text": ["t"]}), folder / "_a.parquet")
    assert read(folder / "_a.parquet", "a.b", "text")[0].columns == {"a.b": ["x"], "text": ["t"]}
    assert list(read(folder / "_a.parquet", "text", whole=True)[0].columns) == ["a.b", "a", "text"]


def test_numbers_of_few_bits_are_those_that_text_spells(tmp_path: Path) -> None:
    """A filter of at least 0.9 keeps 0.9, and 0.1 is the same class in every format."""
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


def test_a_key_that_a_row_has_twice_is_not_chosen_from(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "c": "x"}\n{"text": "b", "c": "x", "c": "y"}\n')
    assert "row 2 is not JSON that can be read: 'c' stands twice in one object" in refused(tmp_path / "a.jsonl", "c")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.csv")
    assert "train.csv: no plain file" in refused(tmp_path / "train.csv", "text")


def test_text_that_no_memory_holds_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for ending in ENDINGS:
        file = tmp_path / f"train{ending}"
        with file.open("wb") as hole:
            hole.truncate(1 << 40)  # takes no disk
        assert "more than 4,294,967,296 bytes" in refused(file, "text")


def test_parquet_that_unpacks_to_more_than_memory_holds_is_refused_by_its_footer_or_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested: Any = pyarrow.array([1] * 3000)
    for _ in range(arrow.LEVELS + 1):
        nested = pyarrow.StructArray.from_arrays([nested], ["a"])
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 3000, pyarrow.int8()), ["x" * 100])
    table = pyarrow.table({"text": texts, "label": texts})
    file = tmp_path / "a.parquet"
    parquet.write_table(table, file, row_group_size=1000)
    assert len(read(file, "text")[0]) == 3000
    for bound, most, said in (
        ("ROWS", 2999, r"has 3,000 rows; 2,999 are the most"),
        ("COLUMNS", 1, r"has 2 columns; 1 are the most"),
        ("GROUPS", 2, r"has 3 row groups; 2 are the most"),
        ("BYTES", 200_000, r"has more than 200,000 bytes, unpacked"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(arrow, bound, most)
            assert said in refused(file, "text")
    parquet.write_table(table.append_column("deep", nested), file)
    assert "nested more than 50 levels deep" in refused(file, "text")
