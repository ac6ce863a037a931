"""Bytes of a file to text: by the mark at its beginning, or else by the encoding that is named."""

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

WESTERN = ("latin-1", "cp1252", "iso8859-15")  # in which bytes of any encoding are some text
MAX_BYTES = 1 << 32  # bytes: the whole text is held in memory, and each of its fields once more
# The longer ones first: UTF-32's mark begins with UTF-16's.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class TextFormat:
    """How CSV, TSV and JSONL files are written, and how a person would say that it is another way.

    Attributes:
        encoding: of a file without a mark of its own.
        quoting: whether "…" holds a field together; None: in CSV it does, in TSV it means nothing.
        decode: what messages advise against bytes of another encoding, its name to follow.
        unquote: what they advise against quotation marks in TSV.
        plain: what they advise where those of CSV mean nothing.
    """

    encoding: str = "utf-8"
    quoting: bool | None = None
    decode: str = "data.encoding: "
    unquote: str = "to take them off: data.quoting: true; to keep them: data.quoting: false"
    plain: str = "; if quotation marks mean nothing in this file: data.quoting: false"


class DecodingError(Exception):
    """Bytes that the encoding does not know.

    Attributes:
        before: the text up to them, and one letter for them, as they may open their row.
    """

    def __init__(self, error: UnicodeDecodeError, raw: bytes, form: TextFormat) -> None:
        own, seen = _encoding_of_mark(raw), bytes(error.object)
        encoding = own or form.encoding
        self.before = seen[: error.start].decode(encoding, "replace").removeprefix("\ufeff") + "\ufffd"
        self.what = (
            f"bytes that are not {encoding.removesuffix('-sig')} (0x{seen[error.start : error.start + 1].hex()})"
        )
        if own is not None:
            self.what += ", which the mark at its beginning says it is; save it again"
        elif is_same_encoding(encoding, "utf-8") and mostly_utf8(raw):
            self.what += ", though most of the file is; mend that row"
        elif names := likely_encodings(raw, encoding):
            self.what += f"; if the file is in another encoding, name it: {advice(raw, names, form)}"
        else:
            self.what += f"; mend that row, or name the file's encoding: {form.decode}…"

    def told(self, name: str, row: int) -> DataError:
        """Args:
        row: 0 for a header.
        """
        return DataError(f"{name}: {f'row {row}' if row else 'the header'} has {self.what}")


def decode_file(path: Path, name: str, form: TextFormat) -> tuple[str, list[str]]:
    """A file's text, a mark at its beginning left out; and what is doubtful about its encoding.

    Raises:
        Undecodable: it is in another encoding.
        DataError: it is no text, looks like UTF-16 that is read as something else, or is too large.
    """
    try:
        raw = plain_files.read(path, MAX_BYTES)
    except ValueError as error:
        raise DataError(f"{name}: {error}, which text is not read from; write it as Parquet") from error
    encoding = _encoding_of_mark(raw) or form.encoding
    if (what := kind_of_binary(raw)) is not None:
        raise DataError(f"{name} is no text but {what}")
    if encoding != _encoding_of_mark(raw) and (own := utf16_or_utf32(raw)) is not None and not _fits(encoding, own):
        raise DataError(f"{name}: its bytes look like {own}, without a mark that says so; name it: {form.decode}{own}")
    try:
        text = raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DecodingError(error, raw, form) from error
    return text, list(_warnings(raw, encoding, form))


def _fits(encoding: str, own: str) -> bool:
    """Whether a file of that encoding is read by this one, which may leave the order of bytes to the machine."""
    return is_same_encoding(encoding, own) or (
        is_same_encoding(encoding, own[:6]) and own.endswith("le" if sys.byteorder == "little" else "be")
    )


def _warnings(raw: bytes, encoding: str, form: TextFormat) -> Iterator[str]:
    if own := iso2022(raw, encoding):
        yield f"its letters stand behind escapes, as {own} writes them; if so: {advice(raw, [own], form)}"
    if raw.isascii() or encoding == _encoding_of_mark(raw) or is_same_encoding(encoding, "utf-8"):
        return
    if mostly_utf8(raw):
        yield f"most of its characters beyond ASCII are UTF-8, and read as {encoding}; if so: {form.decode}utf-8"
    elif not any(is_same_encoding(encoding, name) for name in WESTERN) or not (
        names := likely_encodings(raw, encoding)
    ):
        return
    elif not looks_western(sample_of(raw)):
        yield f"read as {encoding}, it looks like no text: {excerpt(raw, encoding)}; try {advice(raw, names, form)}"
    elif is_same_encoding(encoding, "latin-1") and (controls := set(raw) & set(WINDOWS)):
        yield (
            f"bytes such as 0x{min(controls):x} are control characters in latin-1; if it is from Windows: "
            f"{advice(raw, names, form)}"
        )


def advice(raw: bytes, names: Sequence[str], form: TextFormat) -> str:
    """Encodings in a message, with words as they would be read."""
    if names == ["utf-8"]:
        return f"{form.decode}utf-8"
    first, *others = [f"{name} (it then reads {excerpt(raw, name)})" for name in names]
    return f"{form.decode}{first}" + "".join(f", or {other}" for other in others)


def _encoding_of_mark(raw: bytes) -> str | None:
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if raw.startswith(mark)), None)
