"""What is wrong with the files of an exported folder, in one message: anybody may have written them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peftsweep.errors import ExportError, PeftsweepError, is_library_error
from peftsweep.models import silence_libraries
from peftsweep.safe_text.quoting import MAX_VALUE, shortened


@contextmanager
def told(folder: Path, what: str) -> Iterator[None]:
    """Whatever libraries raise while they read the folder's files, or use what they made of them, becomes one message.

    Args:
        what: of the folder is used: `its adapter`.

    Raises:
        ExportError: in place of any exception that is not the program's own.
    """
    try:
        with silence_libraries():
            yield
    except PeftsweepError:
        raise
    except BaseException as error:
        if not is_library_error(error):
            raise
        why = next(iter(str(error).strip().splitlines()), "")
        raise ExportError(
            f"{folder}: {what} cannot be used: {type(error).__name__}: {shortened(why, 2 * MAX_VALUE)}; export it again"
        ) from error
