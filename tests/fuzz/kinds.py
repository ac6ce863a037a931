"""All kinds of inputs, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.bases import Bases
from tests.fuzz.data_files import DataFiles
from tests.fuzz.databases import Databases
from tests.fuzz.folders import Folders
from tests.fuzz.running import Kind
from tests.fuzz.study_files import StudyFiles
from tests.fuzz.swept_folders import Ground

KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (StudyFiles, DataFiles, Databases, Folders, Bases)}


def made(home: Path, names: Sequence[str]) -> list[Kind]:
    """Create the kinds of these names, and what each of them needs, in an empty folder."""
    ground = Ground(home)
    return [KINDS[name](ground) for name in names]
