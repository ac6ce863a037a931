"""Where text leaves for a terminal, a pipe or a file. Nothing else in the program prints; drawings go by
`progress.screen`, which does the same to their text.

What is ours to say is masked (`masking`) and written out where a terminal would obey it (`escaping`). Data that
somebody asked for, as predictions beside their texts, is never masked: it would be other data.

Nobody may be there to read: a pipe's reader has left, the disk is full, a stream was closed. The command goes on all
the same, for a sweep is worth more than its lines; it says in the end what could not be written.
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
from peftsweep.safe_text.secrets import behind_key, masked, masked_all, opens_a_key
from peftsweep.system import json_files


def say(text: str, stream: TextIO) -> None:
    """Print a line, or several: what a terminal would obey is written out, and so is what the stream has no bytes for.
    A label or a file's name may hold anything."""
    say_data(masked(text), stream)


def say_data(text: str, stream: TextIO) -> None:
    """The same for data, secrets and all."""
    encoding = stream.encoding or "utf-8"
    _print(harmless(text).encode(encoding, "backslashreplace").decode(encoding), stream)


def say_json(value: Any, stream: TextIO) -> None:
    """Print a value as JSON."""
    say_lines_of_json([json.dumps(json_files.with_nulls(masked_all(value)), indent=2, ensure_ascii=False)], stream)


def say_lines_of_json(lines: Sequence[str], stream: TextIO) -> None:
    """Print what is JSON already, as it is. What a terminal would obey, or the stream has no bytes for, stands in it as
    `\\u001b`: a program reads the same."""
    text = in_json("\n".join(lines))
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        text = in_json(text, only_ascii=True)
    _print(text, stream)


def _print(text: str, stream: TextIO) -> None:
    """Print what is masked already, or must not be."""
    if isinstance(stream, Masked):
        stream.write_as_it_is(f"{text}\n")
    else:
        print(text, file=stream, flush=True)


def open_standard_streams() -> None:
    """Put nothing in the place of standard streams that are closed. The next file that is opened would take it: a
    database would get what native code writes to stderr."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


@contextmanager
def masked_streams() -> Iterator[Masked]:
    """Whatever is written to stdout and stderr meanwhile is masked, by whomever: libraries' loggers, warnings, threads
    that fail. Not what native code writes to the file beneath. Nobody is told that a stream cannot be written.

    Yields:
        stdout.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a library knows no better than to raise
    out, err = Masked(sys.stdout or Closed()), Masked(sys.stderr or Closed())
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        try:
            yield out
        finally:
            out.flush()
            err.flush()


class Closed(io.StringIO):
    """In place of a standard stream that was closed before the program began."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "it is closed")


class Masked:
    """A stream that masks what is written to it. A line is written when it ends, or is flushed: `print` writes it in
    parts, and what `password:` means is only seen with what follows.

    Attributes:
        lost: why nothing is written any more, once it could not be.
    """

    def __init__(self, plain: TextIO) -> None:
        self.plain = plain
        self.lost: OSError | None = None
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

    def write_as_it_is(self, text: str) -> None:
        """Write what is masked already, or must not be."""
        with self._alone:
            self._end()
            self._plainly(text)
            self.flush()

    def flush(self) -> None:
        with self._alone:
            self._end()
            self._plainly("")

    def _end(self) -> None:
        """Write what there is of a line."""
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
            self._plainly(masked(text))

    def _plainly(self, text: str) -> None:
        """Write it to the stream itself, or flush that; once it cannot be written, nothing is."""
        if self.lost is not None:
            return
        try:
            if text:
                self.plain.write(text)
            else:
                self.plain.flush()
        except (OSError, ValueError) as error:  # the latter: somebody has closed it
            self.lost = error if isinstance(error, OSError) else OSError(errno.EBADF, "it is closed")
            self._leave()

    def _leave(self) -> None:
        """Let what is still in the stream's buffer go nowhere: Python would try it again as it ends, and complain."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.plain.fileno())
            os.close(nowhere)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)
