"""Which errors does peftsweep raise on purpose?

    PeftsweepError              exit status 1
    ├── UsageError              exit status 2: a bad flag, an unknown study
    │   └── StudyFileError      exit status 2: all mistakes in a study file and its data at once
    ├── DataError               a mistake in a file, column or row of the data
    ├── ModelError              the base is missing, gated, broken or not supported
    ├── MethodError             a registered method does not do what the pack relies on
    ├── WorkerError             the worker's process died
    ├── StorageError            studies.db is locked, unreachable or full
    │   ├── StudyMismatchError  the stored study has another space or other data
    │   ├── ForeignStudyError   another program made the stored study
    │   └── StudyBusyError      another process runs the study
    ├── ExportError             an exported adapter scores differently, was changed, or cannot be written
    └── TrackingError           MLflow failed where the user asked for it (`peftsweep ui`)

Each message says what is wrong, where (file, key, row) and what to do about it. `bounded` masks secrets and limits its
length, however it was put together. Values in it are `quoted`.
"""

from __future__ import annotations

from peftsweep.safe_text.quoting import bounded


class PeftsweepError(Exception):
    """Base class of all errors that users see without a traceback."""

    exit_status = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(bounded(message))


def first_line(error: BaseException) -> str:
    """The first line of what an error says. Python's own MemoryError says nothing, so its class is named.

    Example:
        >>> first_line(ValueError("no such row\\nrow 7")), first_line(MemoryError())
        ('no such row', 'MemoryError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def is_library_error(error: BaseException) -> bool:
    """Whether a library may raise this error for a bad input. tokenizers, in Rust, panics: its PanicException is not
    an Exception, and no module exports its class."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


class UsageError(PeftsweepError):
    """An invalid option or argument."""

    exit_status = 2


class StudyFileError(UsageError):
    """A study file with mistakes. The message lists all of them, one per line."""


class DataError(PeftsweepError):
    """The data cannot be used for training as it is."""


class ModelError(PeftsweepError):
    """The base model cannot be loaded, or cannot be trained in a pack."""


class MethodError(PeftsweepError):
    """A registered method does not do what the pack relies on."""


class WorkerError(PeftsweepError):
    """The worker's process died."""


class StorageError(PeftsweepError):
    """The studies' database does not answer, is locked, or is full."""


class StudyMismatchError(StorageError):
    """A study of this name exists with another space or other data."""


class ForeignStudyError(StorageError):
    """A study of this name exists that another program made."""


class ExportError(PeftsweepError):
    """An exported adapter scores differently from before, was changed afterwards, or cannot be written."""


class StudyBusyError(StorageError):
    """Another process is running the study."""


class TrackingError(PeftsweepError):
    """The MLflow server or its stores cannot be used."""
