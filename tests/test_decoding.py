"""Are bytes in any encoding read by their byte order mark, or reported with the encoding that they look like?"""

from __future__ import annotations

import codecs
import encodings
import pkgutil
import random
import warnings
from functools import partial
from pathlib import Path

import pytest

from peftsweep.config import DataConfig, is_text_encoding
from peftsweep.errors import DataError
from tests.reading import ENDINGS, TEXTS, read, refused, works_or_gives_one_error, written


def test_codecs_that_encode_no_text_are_refused_and_every_other_reads_a_file_or_raises_a_data_error(
    tmp_path: Path,
) -> None:
    known = {module.name for module in pkgutil.iter_modules(encodings.__path__)}
    known |= {"klingon", "", "a\0", "\ud800"}
    kept = [name for name in sorted(known) if is_text_encoding(name)]
    refused_ones = {"hex_codec", "rot_13", "zlib_codec", "punycode", "idna", "undefined", "unicode_escape", "aliases"}
    assert refused_ones.isdisjoint(kept) and len(kept) > 90
    for name in known - set(kept):
        with pytest.raises(ValueError, match="encoding"):
            DataConfig.model_validate({"train": "a.csv", "text": "text", "labels": "c", "encoding": name})
    drawn, path = random.Random(0), tmp_path / "a.csv"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in kept:
            path.write_bytes(written(".csv", ["plain", "text"]).encode(name))
            assert read(path, "text", encoding=name)[0].columns == {"text": ["plain", "text"]}
            for _ in range(3):
                path.write_bytes("text\n".encode(name) + drawn.randbytes(40))
                works_or_gives_one_error(partial(read, path, "text", encoding=name))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("texts", "bytes_of", "said", "advised"),
    [
        (TEXTS, "cp1252", "not utf-8 (0x92)", "cp1252"),
        (TEXTS[2:], "cp1252", "not utf-8 (0xef)", "latin-1"),  # both read it the same way
    ],
)
def test_bytes_that_are_not_utf_8_are_reported_with_the_encoding_that_reads_them(
    tmp_path: Path, ending: str, texts: list[str], bytes_of: str, said: str, advised: str
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(written(ending, texts).encode(bytes_of))
    message = refused(path, "text")
    assert (
        "row 1 " in message
        and f"{said}; if the file is in another encoding, name it: data.encoding: {advised}" in message
    )
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
def test_the_advised_encoding_reads_the_file_and_the_message_shows_how(
    tmp_path: Path, texts: str, encoding: str
) -> None:
    rows, path = texts.split("|"), tmp_path / "a.tsv"
    path.write_bytes(written(".tsv", rows).encode(encoding))
    advised = refused(path, "text").partition("data.encoding: ")[2]
    first, _, shown = advised.partition(" (it then reads ")
    assert read(path, "text", encoding=first)[0].columns["text"] == rows
    assert shown.partition("'")[2][:4] in texts
    western = encoding in ("latin-1", "cp1252")
    assert ("cp1252" in advised or "latin-1" in advised) == western
    said = read(path, "text", encoding="cp1252" if western else "latin-1")[1]  # a study that names a western encoding
    assert [doubt.partition("data.encoding: ")[2] for doubt in said] == [advised] * (not western)


@pytest.mark.parametrize(
    "text",
    [
        "ÅÄÖ ÄÖÅ ÜBERGRÖSSE",
        "Það er þýð bók|Þýðing á íslensku",
        "þjóðþrifaráð í þágu öððæ|HÁÐUNG ÞÝÐIR LÍTIÐ",
        "Åäö är svenska bokstäver|ÅÄÖ åäö",
        "ÄÖÜ|ÄÖÜ äöü ß|ÖÄÜ ÖÄÜ ÖÄÜ",
        "æøå ÆØÅ “hej” – 10 €|blåbærøl",
        "áéíóú ÁÉÍÓÚ ñ|ÀÂÇÉÈÊËÎÏÔÛÙÜŸ|âêîôû àèù ëïü ç",
        "ŠŽÕ ÄÖÜ|jäääär",
    ],
)
@pytest.mark.parametrize("ending", ENDINGS)
def test_western_letters_look_like_text_in_any_number_and_case(tmp_path: Path, text: str, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    for rows in (text.split("|"), [text.replace("|", " ")] * 3):
        path.write_bytes(written(ending, rows).encode("cp1252"))
        table, said = read(path, "text", encoding="cp1252")
        assert table.columns["text"] == rows and not said
        assert "data.encoding: " in refused(path, "text")


def test_a_word_that_fits_two_alphabets_is_shown_in_both(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(written(".csv", ["пока пока"]).encode("cp1251"))
    assert "latin-1 (it then reads 'ïîêà ïîêà,m'), or cp1251 (it then reads 'пока пока,m')" in refused(path, "text")


@pytest.mark.parametrize(
    ("text", "encoding"), [("今日はとても楽しい", "iso2022_jp"), ("오늘은 정말 행복해요", "iso2022_kr")]
)
def test_letters_behind_escapes_are_reported(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(written(".csv", ["plain", text]).encode(encoding))
    (said,) = read(path, "text")[1]
    assert f"try data.encoding: {encoding} (it then reads '{text}" in said
    assert not read(path, "text", encoding=encoding)[1]
    path.write_bytes(written(".csv", ["\x1b[31mred", text]).encode())
    assert not read(path, "text")[1]


def test_letters_that_may_be_icelandic_or_turkish_are_shown_as_both(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(written(".csv", ["Kızgınım", "şaşırtıcı ığdır"]).encode("cp1254"))
    said = refused(path, "text")
    assert "data.encoding: latin-1 (it then reads 'þaþýrtýcý ýðdýr,m'), or cp1254 (it then reads 'şaşırtıcı" in said


def test_utf_8_is_advised_for_a_utf_8_file_under_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(written(".csv", TEXTS), encoding="utf-8")
    assert refused(path, "text", encoding="ascii").endswith("name it: data.encoding: utf-8")


@pytest.mark.parametrize("encoding", ["iso8859-1", "iso8859-15", "iso8859-2", "charmap", "raw_unicode_escape"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_encoding_that_turns_quotation_marks_into_control_characters_gives_a_warning(
    tmp_path: Path, ending: str, encoding: str
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(written(ending, TEXTS).encode("cp1252"))
    table, (said,) = read(path, "text", encoding=encoding)
    assert table.columns["text"][0] == "it\x92s \x93so\x94 good"
    assert said.startswith(f"{path}: bytes such as 0x80 are control characters in {encoding}; if it is from Windows: ")
    assert "data.encoding: cp1252 (it then reads " in said and "it’s “so” good" in said
    assert not read(path, "text", encoding="cp1252")[1]
    path.write_bytes(written(ending, TEXTS[2:]).encode("latin-1"))
    assert not read(path, "text", encoding=encoding)[1]


def test_bytes_within_a_letter_are_not_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for text, encoding in (("ホームで楽しい", "cp932"), ("l’été – 10 €", "utf-16-le"), ("łódź", "iso8859-2")):
        path.write_bytes(written(".csv", [text]).encode(encoding))
        table, said = read(path, "text", encoding=encoding)
        assert table.columns["text"] == [text] and not said


def test_control_characters_give_a_warning_even_if_no_encoding_fits(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(written(".csv", TEXTS).encode("cp1252") + b"\x81,m\n")
    (said,) = read(path, "text", encoding="iso8859-15")[1]
    assert "bytes such as 0x80 are control characters in iso8859-15" in said and "data.encoding: cp1252" in said


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("said", ["utf-8", "cp1252", "utf-16-le"])
def test_a_byte_order_mark_overrides_the_study_s_encoding(tmp_path: Path, ending: str, said: str) -> None:
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
    assert "not utf-16" in (message := refused(path, "text")) and "though its byte order mark says" in message


@pytest.mark.parametrize("named", ["utf-8", "cp1252", "utf-16", "utf-32-be"])
@pytest.mark.parametrize(
    "texts", [["plain", "text"], TEXTS, ["彼は走った", "犬と猫が好き"]], ids=["ascii", "west", "east"]
)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_utf_16_without_a_byte_order_mark_is_recognised(
    tmp_path: Path, encoding: str, texts: list[str], named: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(written(".csv", texts * 9).encode(encoding))
    assert read(path, "text", encoding=encoding)[0].columns["text"] == texts * 9
    if encoding == "utf-16-le" and named == "utf-16":  # this machine's byte order
        assert read(path, "text", encoding=named)[0].columns["text"] == texts * 9
    else:
        said = f"its bytes look like {encoding}, but it has no byte order mark; name the encoding: "
        assert refused(path, "text", encoding=named).endswith(f"{said}data.encoding: {encoding}")


@pytest.mark.parametrize("ending", ENDINGS)
def test_nul_characters_in_a_text_are_kept(tmp_path: Path, ending: str) -> None:
    nul = "\\u0000" if ending == ".jsonl" else "\0"
    path = tmp_path / f"a{ending}"
    path.write_bytes(written(ending, [f"a{nul}b", "c", f"{nul * 3}d"]).encode())
    assert read(path, "text")[0].columns["text"] == ["a\0b", "c", "\0\0\0d"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("named", ["cp1252", "latin-1", "cp1250", "shift_jis"])
def test_utf_8_that_is_read_as_another_encoding_is_reported(tmp_path: Path, ending: str, named: str) -> None:
    path = tmp_path / f"a{ending}"
    for damaged in (b"", b"\xe9"):  # one row may be in another encoding
        path.write_bytes(
            written(ending, ["naïve – €", "plain", "café", "DAMAGED"]).encode().replace(b"DAMAGED", damaged)
        )
        try:
            said = " ".join(read(path, "text", encoding=named)[1])
        except DataError as error:
            said = str(error)
        assert said.endswith("data.encoding: utf-8")
    assert "row 4 has bytes that are not utf-8 (0xe9), though most of the file is; fix that row" in refused(
        path, "text"
    )


def test_bytes_that_no_usual_encoding_has_are_reported_without_a_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(written(".csv", TEXTS).encode("cp1252") + b"\x81,m\n")
    assert refused(path, "text", encoding="cp1252").endswith(
        "row 5 has bytes that are not cp1252 (0x81); fix that row, or name the file's encoding: data.encoding: …"
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_is_not_text_is_called_what_it_is(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    for start, what in {
        b"PK\x03\x04": "an Excel workbook",
        b"\x1f\x8b": "compressed by gzip",
        b"PAR1": "Parquet",
    }.items():
        path.write_bytes(start + bytes(range(256)))
        assert f"{path} is not text but {what}" in refused(path, "text")
