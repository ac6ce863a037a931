"""Which encoding a file's bytes seem to be in, to be advised where the one that is named does not fit."""

from __future__ import annotations

import codecs

WINDOWS = bytes(range(0x80, 0xA0))  # quotation marks, dashes and € in cp1252; in latin-1, characters that nobody types
OTHERS = {
    b"PK\x03\x04": "an Excel workbook or another zip archive; save it as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as CSV",
    b"\x1f\x8b": "packed by gzip; unpack it",
    b"PAR1": "Parquet; let its name end in .parquet",
    b"SQLite format 3\0": "an SQLite database; export the table as CSV",
}
FEW, NULS = 8, 64  # a line's end and each mark between fields have a nought in UTF-16, whatever the language


def no_text(raw: bytes) -> str | None:
    """What a file is that is no text, with what to do about it."""
    return next((what for start, what in OTHERS.items() if raw.startswith(start)), None)


def wide(raw: bytes) -> str | None:
    """The encoding of two or four bytes a character that the file is in, though no mark at its beginning says so: by
    the places of its noughts."""
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


def mostly_utf8(raw: bytes) -> bool:
    """Whether most characters beyond ASCII are UTF-8, which happens to no other encoding by chance."""
    beyond = [letter for letter in raw.decode("utf-8", "surrogateescape") if letter > "\x7f"]
    broken = sum("\udc80" <= letter <= "\udcff" for letter in beyond)
    return len(beyond) - broken > 2 * broken


def better(raw: bytes, encoding: str) -> str | None:
    """The encoding that most such files are in, another than this one: UTF-8 if it fits; Windows' where there are bytes
    that only it has; latin-1 where there are none."""
    if mostly_utf8(raw):
        return None if same(encoding, "utf-8") else "utf-8"
    name = "cp1252" if set(raw) & set(WINDOWS) else "latin-1"
    return name if not same(encoding, name) and _reads(raw, name) else None


def same(encoding: str, name: str) -> bool:
    """Whether the two are names of one encoding."""
    return codecs.lookup(encoding) == codecs.lookup(name)


def _reads(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
