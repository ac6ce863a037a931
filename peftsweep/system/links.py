"""How is a file given a second place without copying its bytes?"""

from __future__ import annotations

import shutil
from pathlib import Path


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file, or each file of a folder, a second name: a hard link where the file system has them, else a copy."""
    source, target = Path(source), Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link_or_copy)
        return
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copy(source, target)
