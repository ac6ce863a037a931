"""What is written or removed lies inside the folder that it belongs to."""

from __future__ import annotations

import os
from pathlib import Path

from peftsweep.errors import PeftsweepError, StorageError


def inside(root: Path, path: Path, error: type[PeftsweepError] = StorageError) -> Path:
    """The path, which lies below the root, links followed; to be asked before anything there is written or removed.

    Raises:
        error: it is the root itself, or a name in it or a link leads elsewhere.
    """
    real, top = (Path(os.path.realpath(each)) for each in (path, root))
    if top not in real.parents:
        raise error(f"{path} leads out of {root}, to {real}: nothing is written or removed there; remove the link")
    return path
