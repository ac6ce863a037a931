"""How is a file read that anybody may have put there?

Its kind and size are checked before it is opened. A pipe or a device is refused, since reading it could wait for ever
or never end, and so is a file larger than what belongs there. If a pipe takes the file's place after the check, it is
opened without waiting, and nothing of it is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

STRANGE = "no plain file"


def check(file: Path, most: int | None = None) -> None:
    """Check a file before a library opens it.

    Args:
        most: bytes.

    Raises:
        OSError: it does not exist, or its kind cannot be read.
        ValueError: it is not a regular file, or has more bytes.
    """
    _check(file.stat(), most)


@contextmanager
def opened(file: Path, most: int | None = None) -> Iterator[BufferedReader]:
    """Open a file of bytes.

    Raises:
        OSError, ValueError: see `check`.
    """
    check(file, most)  # opening a pipe would release its writer, and a device may do anything
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # does not wait, even for a pipe
    try:
        _check(os.fstat(handle), most)
        with os.fdopen(handle, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(handle)


def read(file: Path, most: int) -> bytes:
    """Read all bytes of a file.

    Raises:
        OSError, ValueError: see `check`.
    """
    with opened(file, most) as stream:
        return stream.read(most)


def _check(state: os.stat_result, most: int | None) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise ValueError(STRANGE)
    if most is not None and state.st_size > most:
        raise ValueError(f"more than {most:,} bytes")
