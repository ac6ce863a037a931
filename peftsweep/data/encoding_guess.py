"""Which encoding a file's bytes seem to be in, to be advised where the one that is named does not fit."""

from __future__ import annotations

import codecs
import io
import itertools
import re

import charset_normalizer

from peftsweep.safe_text.quoting import quoted

WINDOWS = bytes(range(0x80, 0xA0))  # quotation marks, dashes and € in cp1252; in latin-1, characters that nobody types
RARE = "ŠŽšžÐÝÞðýþ".encode("cp1252")  # letters of few western texts, and in the places of others of the east
BEYOND, THREE, LETTER = re.compile(r"[^\x00-\x7f]+"), re.compile(r"[^\W\d_]{3}"), re.compile(r"[^\W\d_]")
# Letters beyond ASCII that stand in one text: of German, Swedish (with Finnish and Estonian), Danish and Norwegian,
# Icelandic and Faroese, Spanish, Catalan, Portuguese, French, Italian.
ALPHABETS = [
    *map(set, ("äöüß", "åäöéõšž", "æøåäöé", "áéíóúýðþæöø", "áéíóúüñ", "àçéèíïóòúü")),
    *map(set, ("áàâãçéêíóôõúü", "àâæçéèêëîïôœùûüÿ", "àèéìòù")),
]
WITHIN_WORDS = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿŠšŽžŒœŸªº’‘´·–—…\xad\xa0"
SAMPLE, WORDS, GUESSES = 1 << 16, 60, 2  # bytes that are looked at and are shown, encodings that they may be in
CHAOS = 0.5  # that an encoding's text may have: a few short rows look more chaotic than the default of 0.2 allows
ESCAPES = {b"\x1b$B": "iso2022_jp", b"\x1b$@": "iso2022_jp", b"\x1b$)C": "iso2022_kr"}
# What people's programs write; of those that read a text alike, the first is advised.
USUAL = [
    *(
        "cp1251",
        "koi8_r",
        "koi8_u",
        "cp866",
        "iso8859_5",
        "mac_cyrillic",
        "gb18030",
        "big5",
        "cp932",
        "euc_jp",
        "cp949",
    ),
    *(
        "cp1252",
        "cp1250",
        "iso8859_2",
        "cp1254",
        "cp1253",
        "cp1255",
        "cp1256",
        "iso8859_6",
        "cp1257",
        "cp1258",
        "cp874",
    ),
    *("cp850", "cp852", "mac_roman"),
]
OTHERS = {
    b"PK\x03\x04": "an Excel workbook or another zip archive; save it as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as CSV",
    b"\x1f\x8b": "packed by gzip; unpack it",
    b"PAR1": "Parquet; let its name end in .parquet",
    b"SQLite format 3\0": "an SQLite database; export the table as CSV",
}
FEW = 8  # bytes, of which nothing can be told
NULS = 64  # bytes to a zero of UTF-16, which ends of lines and marks between fields have in any language


def kind_of_binary(raw: bytes) -> str | None:
    """What a file is that is no text, with what to do about it."""
    return next((what for start, what in OTHERS.items() if raw.startswith(start)), None)


def utf16_or_utf32(raw: bytes) -> str | None:
    """The encoding of two or four bytes a character that the file is in, though no mark at its beginning says so: by
    the places of its zeros."""
    counts = [raw[place::4].count(0) for place in range(4)]
    total = sum(counts)
    if total <= max(FEW, len(raw) // NULS):
        return None
    quarter = len(raw) // 4
    if min(counts[2:]) > 0.9 * quarter > 10 * counts[0]:
        return "utf-32-le"
    if min(counts[:2]) > 0.9 * quarter > 10 * counts[3]:
        return "utf-32-be"
    even, odd = counts[0] + counts[2], counts[1] + counts[3]
    return "utf-16-le" if odd > 0.9 * total else "utf-16-be" if even > 0.9 * total else None


def iso2022(raw: bytes, encoding: str) -> str | None:
    """The encoding, other than this one, whose letters are ASCII behind an escape: UTF-8 reads it as other text."""
    names = [name for escape, name in ESCAPES.items() if escape in raw and not is_same_encoding(encoding, name)]
    return next((name for name in names if _can_decode(raw, name)), None)


def mostly_utf8(raw: bytes) -> bool:
    """Whether most characters beyond ASCII are UTF-8, which happens to no other encoding by chance."""
    beyond = [letter for letter in raw.decode("utf-8", "surrogateescape") if letter > "\x7f"]
    broken = sum("\udc80" <= letter <= "\udcff" for letter in beyond)
    return len(beyond) - broken > 2 * broken


def likely_encodings(raw: bytes, encoding: str) -> list[str]:
    """Encodings other than this one that are worth trying, the likeliest first: UTF-8 if it fits; Windows' for the
    west, or latin-1 where no byte is Windows' alone, if the text then looks western; else what the bytes look like.
    All of them read the whole file."""
    if mostly_utf8(raw):
        return [] if is_same_encoding(encoding, "utf-8") else ["utf-8"]
    found = []
    sample = sample_of(raw)
    if looks_western(sample):
        found.append("cp1252" if set(raw) & set(WINDOWS) else "latin-1")
    if not found or set(sample) & set(RARE) or not looks_western(sample, strict=True):
        found += _guess(sample)
    return [name for name in dict.fromkeys(found) if not is_same_encoding(encoding, name) and _can_decode(raw, name)]


def looks_western(raw: bytes, *, strict: bool = False) -> bool:
    """Whether the text looks like one of western Europe if it is read as cp1252: letters with accents stand alone or in
    pairs among others, or in any number if one language has all of them, and signs such as ¿ or ³ at the ends of words.
    So do a few bytes, of which nothing is told.

    Args:
        strict: three such letters in a row are none, whatever they are.
    """
    text = f" {raw.decode('cp1252', 'ignore')} "
    beyond = odd = 0
    for run in BEYOND.finditer(text):
        beyond += len(run[0])
        if THREE.search(run[0]) and (strict or not _of_one_language(run[0])):
            odd += len(run[0])
            continue
        odd += sum(
            text[place] not in WITHIN_WORDS and text[place - 1].isalpha() and text[place + 1].isalpha()
            for place in range(*run.span())
        )
    return 10 * odd <= beyond or beyond < FEW


def _of_one_language(run: str) -> bool:
    letters = set(LETTER.findall(run.lower()))
    return any(letters <= alphabet for alphabet in ALPHABETS)


def _guess(sample: bytes) -> list[str]:
    found = charset_normalizer.from_bytes(sample, threshold=CHAOS, cp_isolation=USUAL, enable_fallback=False)
    alike = ({match.encoding, *match.could_be_from_charset} for match in itertools.islice(found, GUESSES))
    return [name for names in alike for name in [name for name in USUAL if name in names][:1]]


def sample_of(raw: bytes) -> bytes:
    """Lines with bytes beyond ASCII, as many as tell the encoding."""
    lines, size = [], 0
    for line in io.BytesIO(raw):
        if not line.isascii():
            lines.append(line[:SAMPLE])
            size += len(lines[-1])
        if size >= SAMPLE:
            break
    return b"".join(lines)


def excerpt(raw: bytes, encoding: str) -> str:
    """Some words of the file in this encoding, by which a person sees whether it is the right one."""
    lines = re.split(rb"[\r\n]", sample_of(raw)) if not raw.isascii() else [raw[raw.find(b"\x1b") :]]
    line = max(lines, key=lambda line: len({byte for byte in line[:WORDS] if byte > 127}))[:WORDS]
    text = line.decode(encoding, "replace")
    place = next((place for place, letter in enumerate(text) if not letter.isascii()), 0)
    begin = text.rfind(" ", 0, place - 10) + 1 if place > 10 else 0
    return quoted(text[begin : begin + 30])


def is_same_encoding(encoding: str, name: str) -> bool:
    """Whether the two are names of one encoding."""
    return codecs.lookup(encoding) == codecs.lookup(name)


def _can_decode(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
