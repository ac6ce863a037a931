"""How do the bytes of a file become text? By its byte order mark, or else by the encoding that the study names."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from peftsweep.data.encoding_guess import (
    WINDOWS,
    excerpt,
    is_same_encoding,
    iso2022,
    kind_of_binary,
    likely_encodings,
    looks_western,
    mostly_utf8,
    sample_of,
    utf16_or_utf32,
)
from peftsweep.errors import DataError
from peftsweep.system import plain_files

WESTERN = ("latin-1", "cp1252", "iso8859-15")  # these decode any bytes to some text
MAX_BYTES = 1 << 32  # the whole text is held in memory, and then each field again
# Longer marks first: the mark of UTF-32 begins with that of UTF-16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class TextFormat:
    """How CSV, TSV and JSONL files are written, and which options messages suggest to change that.

    Attributes:
        encoding: the encoding of files without a byte order mark.
        quoting: whether fields may be quoted ("…"). None: yes in CSV, no in TSV.
        decode: how to set the encoding; messages append its name.
        unquote: how to read or keep quotation marks in TSV.
        plain: how to turn quoting off in CSV.
    """

    encoding: str = "utf-8"
    quoting: bool | None = None
    decode: str = "data.encoding: "
    unquote: str = "to remove them: data.quoting: true; to keep them: data.quoting: false"
    plain: str = "; if quotation marks mean nothing in this file: data.quoting: false"


class DecodingError(Exception):
    """The file has bytes that its encoding cannot decode.

    Attributes:
        before: the text up to these bytes, plus one character for them, because they may begin a row.
    """

    def __init__(self, error: UnicodeDecodeError, raw: bytes, form: TextFormat) -> None:
        own, seen = _encoding_of_mark(raw), bytes(error.object)
        encoding = own or form.encoding
        self.before = seen[: error.start].decode(encoding, "replace").removeprefix("\ufeff") + "\ufffd"
        self.what = (
            f"bytes that are not {encoding.removesuffix('-sig')} (0x{seen[error.start : error.start + 1].hex()})"
        )
        if own is not None:
            self.what += ", though its byte order mark says so; save it again"
        elif is_same_encoding(encoding, "utf-8") and mostly_utf8(raw):
            self.what += ", though most of the file is; fix that row"
        elif names := likely_encodings(raw, encoding):
            self.what += f"; if the file is in another encoding, name it: {advice(raw, names, form)}"
        else:
            self.what += f"; fix that row, or name the file's encoding: {form.decode}…"

    def as_data_error(self, name: str, row: int) -> DataError:
        """Args:
        row: the row's number; 0 for the header.
        """
        return DataError(f"{name}: {f'row {row}' if row else 'the header'} has {self.what}")


def decode_file(path: Path, name: str, form: TextFormat) -> tuple[str, list[str]]:
    """The text of a file without its byte order mark, and warnings about its encoding.

    Raises:
        DecodingError: it is in another encoding.
        DataError: it is not text, it looks like UTF-16 or UTF-32 but another encoding was named, or it is too large.
    """
    try:
        raw = plain_files.read(path, MAX_BYTES)
    except ValueError as error:
        raise DataError(f"{name}: {error}, too large for a text file; save it as Parquet") from error
    encoding = _encoding_of_mark(raw) or form.encoding
    if (what := kind_of_binary(raw)) is not None:
        raise DataError(f"{name} is not text but {what}")
    if encoding != _encoding_of_mark(raw) and (own := utf16_or_utf32(raw)) is not None and not _fits(encoding, own):
        raise DataError(
            f"{name}: its bytes look like {own}, but it has no byte order mark; name the encoding: {form.decode}{own}"
        )
    try:
        text = raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DecodingError(error, raw, form) from error
    return text, list(_warnings(raw, text, encoding, form))


def _fits(encoding: str, own: str) -> bool:
    """Whether this encoding reads files of the other. utf-16 and utf-32 use the byte order of the machine."""
    return is_same_encoding(encoding, own) or (
        is_same_encoding(encoding, own[:6]) and own.endswith("le" if sys.byteorder == "little" else "be")
    )


def _warnings(raw: bytes, text: str, encoding: str, form: TextFormat) -> Iterator[str]:
    if own := iso2022(raw, encoding):
        yield f"it has the escape sequences of {own}; try {advice(raw, [own], form)}"
    if raw.isascii() or encoding == _encoding_of_mark(raw) or is_same_encoding(encoding, "utf-8"):
        return
    if mostly_utf8(raw):
        yield f"most of its non-ASCII characters are UTF-8, but it was read as {encoding}; try {form.decode}utf-8"
        return
    controls = _control_bytes(raw, text, encoding)
    if not controls and not any(is_same_encoding(encoding, name) for name in WESTERN):
        return
    names = likely_encodings(raw, encoding)
    if names and not looks_western(sample_of(raw)):
        yield f"read as {encoding}, it looks wrong: {excerpt(raw, encoding)}; try {advice(raw, names, form)}"
    elif controls:
        yield (
            f"bytes such as 0x{min(controls):x} are control characters in {encoding}; if it is from Windows: "
            f"{advice(raw, names or ['cp1252'], form)}"
        )


def _control_bytes(raw: bytes, text: str, encoding: str) -> set[int]:
    """The file's quotation marks, dashes and € from Windows that became control characters, as in all of ISO 8859."""
    found = {byte for byte in WINDOWS if byte in raw and chr(byte) in text}
    return {byte for byte in found if bytes([byte]).decode(encoding, "ignore") == chr(byte)}


def advice(raw: bytes, names: Sequence[str], form: TextFormat) -> str:
    """A suggestion of encodings for a message, with words of the file as each would read them."""
    if names == ["utf-8"]:
        return f"{form.decode}utf-8"
    first, *others = [f"{name} (it then reads {excerpt(raw, name)})" for name in names]
    return f"{form.decode}{first}" + "".join(f", or {other}" for other in others)


def _encoding_of_mark(raw: bytes) -> str | None:
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if raw.startswith(mark)), None)
