"""Where text leaves for a terminal, a pipe or a file. Nothing else in the program prints; drawings go by
`progress.screen`, which does the same to their text.

What is ours to say is masked (`masking`) and written out where a terminal would obey it (`escaping`). Data that
somebody asked for, as predictions beside their texts, is never masked: it would be other data.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

from peftsweep import jsonfile
from peftsweep.escaping import harmless, in_json
from peftsweep.masking import behind_key, masked, masked_all, opens_a_key


def say(text: str, stream: TextIO) -> None:
    """Print a line, or several: what a terminal would obey is written out, and so is what the stream has no bytes for.
    A label or a file's name may hold anything."""
    say_data(masked(text), stream)


def say_data(text: str, stream: TextIO) -> None:
    """The same for data, secrets and all."""
    encoding = stream.encoding or "utf-8"
    print(harmless(text).encode(encoding, "backslashreplace").decode(encoding), file=_plain(stream), flush=True)


def say_json(value: Any, stream: TextIO) -> None:
    """Print a value as JSON."""
    say_lines_of_json([json.dumps(jsonfile.with_nulls(masked_all(value)), indent=2, ensure_ascii=False)], stream)


def say_lines_of_json(lines: Sequence[str], stream: TextIO) -> None:
    """Print what is JSON already, as it is. What a terminal would obey, or the stream has no bytes for, stands in it as
    `\\u001b`: a program reads the same."""
    text = in_json("\n".join(lines))
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        text = in_json(text, only_ascii=True)
    print(text, file=_plain(stream), flush=True)


@contextmanager
def masked_streams() -> Iterator[None]:
    """Whatever is written to stdout and stderr meanwhile is masked, by whomever: libraries' loggers, warnings, threads
    that fail. Not what native code writes to the file beneath."""
    out, err = Masked(sys.stdout), Masked(sys.stderr)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        try:
            yield
        finally:
            out.end()
            err.end()


class Masked:
    """A stream that masks what is written to it. A line is written when it ends, or is flushed: `print` writes it in
    parts, and what `password:` means is only seen with what follows."""

    def __init__(self, plain: TextIO) -> None:
        self.plain = plain
        self._begun = ""  # of the last line
        self._in_key = False  # whether a private key has begun, and has not ended
        self._alone = threading.RLock()  # a signal's handler may write, too

    def write(self, text: str) -> int:
        with self._alone:
            lines, end, rest = (self._begun + text).rpartition("\n")
            self._begun = rest
            if end:
                self._write(lines + end)
        return len(text)

    def flush(self) -> None:
        self.end()
        self.plain.flush()

    def end(self) -> None:
        """Write what there is of a line. Nothing is flushed: nobody may be there to read it."""
        with self._alone:
            begun, self._begun = self._begun, ""
            if begun:
                self._write(begun)

    def _write(self, text: str) -> None:
        """Write it masked. A private key may come line by line: `***` is its first one."""
        while self._in_key and text:
            line, end, rest = text.partition("\n")
            behind = behind_key(line)
            self._in_key = behind is None
            text = behind + end + rest if behind else rest
        if text:
            self._in_key = opens_a_key(text)
            self.plain.write(masked(text))

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


def _plain(stream: TextIO) -> TextIO:
    """The stream itself, for text that is masked already, or must not be."""
    if not isinstance(stream, Masked):
        return stream
    stream.end()
    return stream.plain
