"""What is written or removed lies inside the folder that it belongs to."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

from peftsweep.errors import PeftsweepError, StorageError


def inside(root: Path, path: Path, error: type[PeftsweepError] = StorageError) -> Path:
    """The path, which lies below the root and is no link; to be asked before anything there is written or removed.

    Raises:
        error: it is the root itself, a name in it or a link leads elsewhere, or a link leads to another's place in the
            root.
    """
    real = os.path.realpath(path)
    if not _lies_inside(root, path):
        raise error(f"{path} leads out of {root}, to {real}: nothing is written or removed there; remove the link")
    if _is_linked(root, path):
        raise error(f"{path} is a link to {real}: nothing is written or removed there; remove the link")
    return path


def same(a: Path, b: Path) -> bool:
    """Whether two paths are one place, however they are spelt: some disks take upper and lower case for one."""
    try:
        return a.samefile(b)
    except OSError:  # one is not there
        return os.path.realpath(a) == os.path.realpath(b)


def within(path: Path, root: Path) -> bool:
    """Whether the path is the root, or lies in it, links followed."""
    path = Path(os.path.realpath(path))
    return any(same(part, root) for part in (path, *path.parents))


def remove(root: Path, path: Path) -> None:
    """Remove a folder below the root with all that it has. One to which a link leads out of the root stays."""
    if _lies_inside(root, path):
        shutil.rmtree(path, ignore_errors=True)


def _lies_inside(root: Path, path: Path) -> bool:
    return Path(os.path.realpath(root)) in Path(os.path.realpath(path)).parents


def _is_linked(root: Path, path: Path) -> bool:
    """Whether the path, or a folder between it and the root, is a link."""
    end = os.path.realpath(root)
    below = itertools.takewhile(lambda place: os.path.realpath(place) != end, (path, *path.parents))
    return any(place.is_symlink() for place in below)
