"""How is text printed safely?

Only this file prints; what rich draws goes through `progress.screen`, which treats text the same way. Messages have
their secrets masked and their control characters written out (`safe_text`). Data that somebody asked for, such as
predictions beside their texts, is never masked, because it would no longer be that data.

Printing may fail: the reader of a pipe has left, the disk is full, a stream was closed. The command goes on, since a
sweep is worth more than its output, and reports at the end what could not be written.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

from peftsweep.safe_text.escaping import harmless, in_json
from peftsweep.safe_text.secrets import after_private_key, ends_in_private_key, masked, masked_all
from peftsweep.system import json_files


def say(text: str, stream: TextIO) -> None:
    """Print one or more lines. Control characters are written out, since a label or a file's name may hold anything;
    so are characters that the stream cannot encode."""
    say_data(masked(text), stream)


def say_data(text: str, stream: TextIO) -> None:
    """Print data, without masking secrets in it."""
    encoding = stream.encoding or "utf-8"
    _print(harmless(text).encode(encoding, "backslashreplace").decode(encoding), stream)


def say_json(value: Any, stream: TextIO) -> None:
    """Print a value as JSON."""
    say_lines_of_json([json.dumps(json_files.with_nulls(masked_all(value)), indent=2, ensure_ascii=False)], stream)


def say_lines_of_json(lines: Sequence[str], stream: TextIO) -> None:
    """Print lines that are JSON already. Control characters, and those that the stream cannot encode, are escaped as
    `\\u001b`: a program reads the same values."""
    text = in_json("\n".join(lines))
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        text = in_json(text, only_ascii=True)
    _print(text, stream)


def _print(text: str, stream: TextIO) -> None:
    """Print text that is masked already, or must not be."""
    if isinstance(stream, Masked):
        stream.write_as_it_is(f"{text}\n")
    else:
        print(text, file=stream, flush=True)


def open_standard_streams() -> None:
    """Open /dev/null in place of closed standard streams. Otherwise the next file to be opened would get the number of
    one, and a database could receive what native code writes to stderr."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


@contextmanager
def masked_streams() -> Iterator[Masked]:
    """Mask everything that Python code writes to stdout and stderr inside the block: libraries' loggers, warnings,
    tracebacks of threads. Output of native code is not masked. Errors of writing are not raised.

    Yields:
        stdout.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # else a library's print may raise
    out, err = Masked(sys.stdout or Closed()), Masked(sys.stderr or Closed())
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        try:
            yield out
        finally:
            out.flush()
            err.flush()


class Closed(io.StringIO):
    """Stands for a standard stream that was closed before the program began."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "it is closed")


class Masked:
    """A stream that masks what is written to it. It writes whole lines, or what there is when it is flushed: `print`
    writes a line in parts, and `password:` says nothing without what follows.

    Attributes:
        lost: the error after which nothing more is written; None while all goes well.
    """

    def __init__(self, plain: TextIO) -> None:
        self.plain = plain
        self.lost: OSError | None = None
        self._begun = ""  # beginning of a line that has not ended
        self._in_key = False  # inside a private key
        self._alone = threading.RLock()  # a signal handler may write, too

    def write(self, text: str) -> int:
        with self._alone:
            lines, end, rest = (self._begun + text).rpartition("\n")
            self._begun = rest
            if end:
                self._write(lines + end)
        return len(text)

    def write_as_it_is(self, text: str) -> None:
        """Write text that is masked already, or must not be."""
        with self._alone:
            self._end()
            self._plainly(text)
            self.flush()

    def flush(self) -> None:
        with self._alone:
            self._end()
            self._plainly("")

    def _end(self) -> None:
        """Write the line that has begun."""
        begun, self._begun = self._begun, ""
        if begun:
            self._write(begun)

    def _write(self, text: str) -> None:
        """Write text masked. A private key may come line by line; only its first line is replaced, by `***`."""
        while self._in_key and text:
            line, end, rest = text.partition("\n")
            behind = after_private_key(line)
            self._in_key = behind is None
            text = behind + end + rest if behind else rest
        if text:
            self._in_key = ends_in_private_key(text)
            self._plainly(masked(text))

    def _plainly(self, text: str) -> None:
        """Write to the stream itself, or flush it; after an error do nothing."""
        if self.lost is not None:
            return
        try:
            if text:
                self.plain.write(text)
            else:
                self.plain.flush()
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self.lost = error if isinstance(error, OSError) else OSError(errno.EBADF, "it is closed")
            self._leave()

    def _leave(self) -> None:
        """Send what is left in the stream's buffer to /dev/null: Python would try to write it at exit, and complain."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.plain.fileno())
            os.close(nowhere)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)
