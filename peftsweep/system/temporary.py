"""Where does a process keep files that nobody needs after it?"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from peftsweep.system.atomic_files import new_folder
from peftsweep.system.leftovers import tidy_folder


class TemporaryFolder:
    """A folder in the system's temporary place, for this process alone. Making one removes those of dead processes.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self) -> None:
        place = Path(tempfile.gettempdir())
        tidy_folder(place)
        self.path, self._lock = new_folder(place)

    def exists(self) -> bool:
        """Whether the folder that was made is still there: many systems remove what lies long in that place."""
        try:
            return os.path.samestat(os.fstat(self._lock), self.path.lstat())
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        if self.exists():
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
