"""Which encoding do a file's bytes seem to be in? Messages suggest it where the named encoding does not fit."""

from __future__ import annotations

import codecs
import io
import itertools
import re

import charset_normalizer

from peftsweep.safe_text.quoting import quoted

WINDOWS = bytes(range(0x80, 0xA0))  # quotation marks, dashes and € in cp1252, but unused controls in latin-1
RARE = "ŠŽšžÐÝÞðýþ".encode("cp1252")  # rare in western texts; eastern encodings have common letters there
BEYOND, THREE, LETTER = re.compile(r"[^\x00-\x7f]+"), re.compile(r"[^\W\d_]{3}"), re.compile(r"[^\W\d_]")
# The non-ASCII letters of one language (or a few similar ones): German, Swedish with Finnish and Estonian, Danish and
# Norwegian, Icelandic and Faroese, Spanish, Catalan, Portuguese, French, Italian.
ALPHABETS = [
    *map(set, ("äöüß", "åäöéõšž", "æøåäöé", "áéíóúýðþæöø", "áéíóúüñ", "àçéèíïóòúü")),
    *map(set, ("áàâãçéêíóôõúü", "àâæçéèêëîïôœùûüÿ", "àèéìòù")),
]
WITHIN_WORDS = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿŠšŽžŒœŸªº’‘´·–—…\xad\xa0"
SAMPLE, WORDS, GUESSES = 1 << 16, 60, 2  # bytes to examine, bytes to show, encodings to suggest
CHAOS = 0.5  # threshold of charset_normalizer: a few short rows exceed its default of 0.2
ESCAPES = {b"\x1b$B": "iso2022_jp", b"\x1b$@": "iso2022_jp", b"\x1b$)C": "iso2022_kr"}
# Encodings in common use. Of several that decode a text to the same, the first is suggested.
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
    b"\x1f\x8b": "compressed by gzip; decompress it",
    b"PAR1": "Parquet; rename it to end in .parquet",
    b"SQLite format 3\0": "an SQLite database; export the table as CSV",
}
FEW = 8  # too few bytes to judge by
NULS = 64  # bytes per zero byte in UTF-16, at most: line ends and delimiters have one in any language


def kind_of_binary(raw: bytes) -> str | None:
    """What kind of binary file it is, and what to do about it; None if it may be text."""
    return next((what for start, what in OTHERS.items() if raw.startswith(start)), None)


def utf16_or_utf32(raw: bytes) -> str | None:
    """The UTF-16 or UTF-32 encoding of a file without a byte order mark, judged by the positions of its zero bytes."""
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
    """The ISO 2022 encoding that the file seems to be in, if not the given one. UTF-8 decodes it too: it is ASCII."""
    names = [name for escape, name in ESCAPES.items() if escape in raw and not is_same_encoding(encoding, name)]
    return next((name for name in names if _can_decode(raw, name)), None)


def mostly_utf8(raw: bytes) -> bool:
    """Whether most non-ASCII characters are valid UTF-8, which does not happen by chance in another encoding."""
    beyond = [letter for letter in raw.decode("utf-8", "surrogateescape") if letter > "\x7f"]
    broken = sum("\udc80" <= letter <= "\udcff" for letter in beyond)
    return len(beyond) - broken > 2 * broken


def likely_encodings(raw: bytes, encoding: str) -> list[str]:
    """Other encodings that can decode the whole file, the most likely first.

    UTF-8 if it fits. If the text looks western: cp1252, or latin-1 if no byte is specific to cp1252. Else what
    charset_normalizer guesses.
    """
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
    """Whether the bytes, read as cp1252, look like a text of western Europe.

    In such a text accented letters occur alone or in pairs (or in longer runs if one language has all of them), and
    signs such as ¿ or ³ occur at the ends of words. Fewer than eight non-ASCII bytes always count as western.

    Args:
        strict: never accept three such letters in a row.
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
    """Lines with non-ASCII bytes, enough to judge the encoding by."""
    lines, size = [], 0
    for line in io.BytesIO(raw):
        if not line.isascii():
            lines.append(line[:SAMPLE])
            size += len(lines[-1])
        if size >= SAMPLE:
            break
    return b"".join(lines)


def excerpt(raw: bytes, encoding: str) -> str:
    """Some words of the file in this encoding, so that a person sees whether it is the right one."""
    lines = re.split(rb"[\r\n]", sample_of(raw)) if not raw.isascii() else [raw[raw.find(b"\x1b") :]]
    line = max(lines, key=lambda line: len({byte for byte in line[:WORDS] if byte > 127}))[:WORDS]
    text = line.decode(encoding, "replace")
    place = next((place for place, letter in enumerate(text) if not letter.isascii()), 0)
    begin = text.rfind(" ", 0, place - 10) + 1 if place > 10 else 0
    return quoted(text[begin : begin + 30])


def is_same_encoding(encoding: str, name: str) -> bool:
    """Whether both names stand for the same encoding."""
    return codecs.lookup(encoding) == codecs.lookup(name)


def _can_decode(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
