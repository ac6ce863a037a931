"""Bytes of a file to text: by the mark at its beginning, or else by the encoding that is named."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path

from peftsweep.errors import DataError

MOST = 1 << 32  # bytes: the whole text is held in memory, and each of its fields once more
# The longer ones first: UTF-32's mark begins with UTF-16's.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
WINDOWS = bytes(range(0x80, 0xA0))  # quotation marks, dashes and € in cp1252; in latin-1, characters that nobody types


@dataclass(frozen=True)
class Form:
    """How CSV, TSV and JSONL files are written, and how a person would say that it is another way.

    Attributes:
        encoding: of a file without a mark of its own.
        quoting: whether "…" holds a field together; None: in CSV it does, in TSV it means nothing.
        decode: what messages advise against bytes of another encoding, its name to follow.
        unquote: what they advise against quotation marks in TSV.
    """

    encoding: str = "utf-8"
    quoting: bool | None = None
    decode: str = "data.encoding: "
    unquote: str = "to take them off: data.quoting: true; to keep them: data.quoting: false"


class Undecodable(Exception):  # noqa: N818
    """Bytes that the encoding does not know.

    Attributes:
        before: the text up to them, and one letter for them, as they may open their row.
    """

    def __init__(self, error: UnicodeDecodeError, raw: bytes, form: Form) -> None:
        own, seen = _mark(raw), bytes(error.object)
        encoding = own or form.encoding
        self.before = seen[: error.start].decode(encoding, "replace").removeprefix("\ufeff") + "\ufffd"
        self.what = (
            f"bytes that are not {encoding.removesuffix('-sig')} (0x{seen[error.start : error.start + 1].hex()})"
        )
        if own is not None:
            self.what += ", which the mark at its beginning says it is; save it again"
        elif (better := _better(raw, encoding)) is not None:
            self.what += f"; if the file is in another encoding, name it: {form.decode}{better}"

    def told(self, name: str, row: int) -> DataError:
        """Args:
        row: 0 for a header.
        """
        return DataError(f"{name}: {f'row {row}' if row else 'the header'} has {self.what}")


def decoded(path: Path, name: str, form: Form) -> tuple[str, list[str]]:
    """A file's text, a mark at its beginning left out; and what is doubtful about its encoding.

    Raises:
        Undecodable: it is in another encoding.
        DataError: it looks like UTF-16 that is read as something else, or is too large.
    """
    if path.stat().st_size > MOST:
        raise DataError(f"{name}: more than {MOST:,} bytes, which text is not read from; write it as Parquet")
    raw = path.read_bytes()
    encoding = _mark(raw) or form.encoding
    try:
        text = raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise Undecodable(error, raw, form) from error
    if text.count("\0") > len(text) // 4:
        order = "be" if text[0] == "\0" else "le"
        raise DataError(
            f"{name}: every second byte is nought; if it is UTF-16 without a mark, name it: {form.decode}utf-16-{order}"
        )
    odd = set(raw) & set(WINDOWS) if _is(encoding, "latin-1") and _better(raw, encoding) == "cp1252" else ()
    if not odd:
        return text, []
    shown = bytes([min(odd)])
    return text, [
        f"bytes such as 0x{shown.hex()} ({shown.decode('cp1252')!r} in cp1252) are control characters in latin-1; if "
        f"it is from Windows: {form.decode}cp1252"
    ]


def _mark(raw: bytes) -> str | None:
    return next((encoding for mark, encoding in MARKS.items() if raw.startswith(mark)), None)


def _is(encoding: str, name: str) -> bool:
    return codecs.lookup(encoding) == codecs.lookup(name)


def _better(raw: bytes, encoding: str) -> str | None:
    """The encoding that most such files are in, another than this one: UTF-8 if it fits, which nothing else does by
    chance; Windows' where there are bytes that only it has; or else latin-1."""
    for name in ("utf-8", "cp1252", "latin-1"):
        if not _is(encoding, name) and (name != "cp1252" or set(raw) & set(WINDOWS)):
            try:
                raw.decode(name)
            except UnicodeDecodeError:
                continue
            return name
    return None
