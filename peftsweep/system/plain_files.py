"""Files that anybody may have put there. They are looked at before they are opened: a pipe or a device, which would be
waited for or never end, is refused. Nothing is read that is larger than what belongs there.

If one takes a file's place between the two, `opened` opens it, without waiting, and reads nothing of it.
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
    """To be asked before a library opens a file.

    Args:
        most: bytes.

    Raises:
        OSError: it is not there, or cannot be looked at.
        ValueError: it is no plain file, or a larger one.
    """
    _check(file.stat(), most)


@contextmanager
def opened(file: Path, most: int | None = None) -> Iterator[BufferedReader]:
    """A file's bytes.

    Raises:
        OSError, ValueError: see `check`.
    """
    check(file, most)  # a pipe's writer would be let go, and a device may do anything
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # of a pipe, too, at once
    try:
        _check(os.fstat(handle), most)
        with os.fdopen(handle, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(handle)


def read(file: Path, most: int) -> bytes:
    """All bytes of a file.

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
