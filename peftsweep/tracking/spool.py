"""Where are artifacts kept until the tracker has them? In copies: the study may delete the originals meanwhile."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from peftsweep.system.links import link_or_copy
from peftsweep.system.temporary import TemporaryFolder


class Spool:
    """Copies of artifacts. By default they are in a temporary folder of the system."""

    def __init__(self) -> None:
        self._given: Path | None = None
        self._temporary: TemporaryFolder | None = None
        self._numbers = itertools.count()

    def use(self, folder: Path) -> None:
        """Keep the copies in this folder, which only this process uses. Leftovers of a killed process are removed."""
        shutil.rmtree(folder, ignore_errors=True)
        self._given = folder

    def copies(self, artifacts: Mapping[str, Path], failed: Callable[[OSError], None]) -> dict[str, Path]:
        """Copy artifacts; returns the copies by their path in the run.

        Args:
            failed: called for each file that cannot be copied.
        """
        if not artifacts:
            return {}
        try:
            folder = self._folder() / str(next(self._numbers))
            folder.mkdir()
        except OSError as error:
            failed(error)
            return {}
        for place, source in artifacts.items():
            try:
                link_or_copy(source, folder / place)
            except OSError as error:
                failed(error)
        return {place: folder / place for place in artifacts}

    def _folder(self) -> Path:
        if self._given is not None:
            self._given.mkdir(parents=True, exist_ok=True)
            return self._given
        if self._temporary is not None and not self._temporary.exists():
            self.remove()
        self._temporary = self._temporary or TemporaryFolder()
        return self._temporary.path

    def remove(self) -> None:
        if self._given is not None:
            shutil.rmtree(self._given, ignore_errors=True)
        if self._temporary is not None:
            self._temporary.remove()
            self._temporary = None
