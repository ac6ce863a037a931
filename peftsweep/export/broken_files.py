"""How do libraries' errors about an exported folder's files become one message? Anybody may have written the files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peftsweep.errors import ExportError, PeftsweepError, is_library_error
from peftsweep.models import silence_libraries
from peftsweep.safe_text.quoting import MAX_VALUE, shortened


@contextmanager
def as_export_error(folder: Path, what: str) -> Iterator[None]:
    """Turn exceptions of libraries that read or use the folder's files into one message.

    Args:
        what: the part of the folder that is used, such as `its adapter`.

    Raises:
        ExportError: instead of any exception that is not a `PeftsweepError`.
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
