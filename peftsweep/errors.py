"""Everything that peftsweep raises on purpose.

    PeftsweepError              exit status 1
    ├── UsageError              exit status 2: a bad flag, an unknown study
    │   └── StudyFileError      exit status 2: everything wrong in a study file and in the data that it names, at once
    ├── DataError               a file, column or row of the data
    ├── ModelError              the base: not there, gated, broken, not to be packed
    ├── StorageError            studies.db: locked, unreachable, full
    │   ├── StudyMismatchError  the study in the storage has another space or other data
    │   ├── ForeignStudyError   the study in the storage was made by another program
    │   └── StudyBusyError      another process runs the study
    ├── ExportError             an exported adapter: not what it was, changed, cannot be written
    └── TrackingError           MLflow, where the user asked for it (`peftsweep ui`)

Each message says what was wrong, where (file, key, row) and what to do about it. However it was put together, it holds
no secret and no megabytes: see `masked` and `bounded`. Values in it are `quoted`.
"""

from __future__ import annotations

from peftsweep.safe_text.quoting import bounded


class PeftsweepError(Exception):
    """Base of every error that a user may see without a traceback."""

    exit_status = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(bounded(message))


def is_a_library_s(error: BaseException) -> bool:
    """Whether a library may raise it at a bad input. A library in Rust (tokenizers) panics: that is no Exception, and
    its class is in no module."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


class UsageError(PeftsweepError):
    """A flag or an argument that cannot be meant."""

    exit_status = 2


class StudyFileError(UsageError):
    """A study file with mistakes: all of them, one a line."""


class DataError(PeftsweepError):
    """The data cannot be trained on as it is."""


class ModelError(PeftsweepError):
    """The base model cannot be had, or cannot be trained in a pack."""


class StorageError(PeftsweepError):
    """The studies' database did not answer, is locked, or is full."""


class StudyMismatchError(StorageError):
    """A study of this name exists with another space or other data."""


class ForeignStudyError(StorageError):
    """A study of this name exists that did not come from a sweep."""


class ExportError(PeftsweepError):
    """An exported adapter does not score as it did, was changed afterwards, or cannot be written."""


class StudyBusyError(StorageError):
    """Another process runs the study."""


class TrackingError(PeftsweepError):
    """The MLflow server or its stores cannot be used."""
