"""Who may read a file: safetensors writes files that are their owner's alone, whatever the umask."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def of_umask(file: Path) -> Iterator[Path]:
    """A file that is written in here gets the permissions that the umask gives to any new one."""
    file.touch()
    mode = stat.S_IMODE(file.stat().st_mode)
    yield file
    file.chmod(mode)
