"""Does a path lie inside the folder that it belongs to? Asked before anything is written or removed there."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

from peftsweep.errors import PeftsweepError, StorageError


def inside(root: Path, path: Path, error: type[PeftsweepError] = StorageError) -> Path:
    """The path, if it lies below the root and no link leads there.

    Raises:
        error: it is the root itself, or a name or link in it leads out of the root or to another place in it.
    """
    real, below = os.path.realpath(path), os.path.relpath(path, root)
    if below != os.curdir and real == str(Path(os.path.realpath(root)) / below):
        return path
    if not _lies_inside(root, path):
        raise error(f"{path} leads out of {root}, to {real}: nothing is written or removed there; remove the link")
    if _is_linked(root, path):
        raise error(f"{path} is a link to {real}: nothing is written or removed there; remove the link")
    return path


def same(a: Path, b: Path) -> bool:
    """Whether two paths are the same place, however they are spelled: some disks ignore upper and lower case."""
    try:
        return a.samefile(b)
    except OSError:  # one does not exist
        return os.path.realpath(a) == os.path.realpath(b)


def within(path: Path, root: Path) -> bool:
    """Whether the path is the root or lies in it, after following links."""
    path = Path(os.path.realpath(path))
    return any(same(part, root) for part in (path, *path.parents))


def remove(root: Path, path: Path) -> None:
    """Remove a folder below the root with everything in it. Nothing is removed where a link leads out of the root."""
    if _lies_inside(root, path):
        shutil.rmtree(path, ignore_errors=True)


def _lies_inside(root: Path, path: Path) -> bool:
    return Path(os.path.realpath(root)) in Path(os.path.realpath(path)).parents


def _is_linked(root: Path, path: Path) -> bool:
    """Whether the path, or a folder between it and the root, is a link."""
    end = os.path.realpath(root)
    below = itertools.takewhile(lambda place: os.path.realpath(place) != end, (path, *path.parents))
    return any(place.is_symlink() for place in below)
