"""What did the operating system say, whichever library reports it, and about which file?"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from peftsweep.errors import PeftsweepError

FULL = (errno.ENOSPC, errno.EDQUOT)
OF_A_DISK = (*FULL, errno.EIO, errno.EROFS)


def os_error(error: BaseException) -> OSError | None:
    """The operating system's error; None if it is another one. Libraries in Rust (safetensors, tokenizers) wrap it in
    errors of their own, which end in its number.

    Example:
        >>> os_error(Exception("I/O error: No space left on device (os error 28)"))
        OSError(28, 'No space left on device')
    """
    if isinstance(error, OSError):
        return error
    number = None if isinstance(error, PeftsweepError) else re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def named(error: BaseException, target: Path, aside: Path) -> BaseException:
    """The error of a write, with the name of its target: the system names no file if a disk is full, or names the one
    that was written aside."""
    found = os_error(error)
    if found is None or found.errno is None:
        return error
    if found.filename is None:
        ours = found is not error or found.errno in OF_A_DISK
    else:
        ours = isinstance(found.filename, str) and Path(found.filename).is_relative_to(aside)
    return OSError(found.errno, found.strerror, str(target)) if ours else error
