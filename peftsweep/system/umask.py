"""How does a file that safetensors writes, for its owner alone, get the permissions that any new file gets?"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def umask_permissions(file: Path) -> Iterator[Path]:
    """A file written inside the block gets the permissions that the umask gives to any new file."""
    file.touch()
    mode = stat.S_IMODE(file.stat().st_mode)
    yield file
    file.chmod(mode)
