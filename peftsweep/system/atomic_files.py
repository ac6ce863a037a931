"""How is a file or folder written so that readers find a whole one or none?

It is written aside, in a hidden folder of its own beside the target, and then renamed. `leftovers` says what becomes
of the asides of processes that were killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peftsweep.system.leftovers import OLD, REAL_FOLDER, clear, place_id, tidy
from peftsweep.system.os_errors import named


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """A path beside the target. The file or folder written there takes the target's place if nothing is raised."""
    with aside(target) as path:
        yield path
        put(path, target)


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A path beside the target, at which nothing is yet. `put` gives it the target's name. Whatever is there at the end
    is removed, and so is what dead processes left in that folder. The target's folder is made if it is missing.

    Raises:
        OSError: it cannot be written, for instance because the disk is full. The error names the target.
    """
    tidy(target)
    folder, lock = new_folder(target.parent)
    try:
        yield folder / target.name
    except Exception as error:
        told = named(error, target, folder)
        if told is error:
            raise
        raise told from error
    finally:
        clear(folder)
        os.close(lock)


def put(path: Path, target: Path) -> None:
    """Give what was written aside its target's name. A folder that has the name is removed once the new one stands."""
    if not (path.is_dir() and target.is_dir()):
        path.replace(target)
        return
    old = path.parent / OLD / target.name
    old.parent.mkdir(0o700, exist_ok=True)
    try:
        target.rename(old)
        path.rename(target)
    finally:  # a signal may come between any two of these
        with contextlib.suppress(OSError):
            if not os.path.lexists(target):
                old.rename(target)
            elif not os.path.lexists(path):
                old.rename(path)  # `aside` removes it from there


def put_if_free(path: Path, target: Path) -> None:
    """Give what was written aside its target's name, unless something has that name: another process, which began at
    the same time, may have been faster, and others may use its file already."""
    try:
        if path.is_dir():
            path.rename(target)
        else:
            target.hardlink_to(path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            path.replace(target)  # a file system without hard links


def new_folder(place: Path) -> tuple[Path, int]:
    """Make a hidden folder in which only this user can write, and return it with the descriptor that holds its lock."""
    place.mkdir(parents=True, exist_ok=True)
    while True:
        folder = place / f".peftsweep-{place_id(place)}-{secrets.token_hex(4)}"
        try:
            folder.mkdir(0o700)
        except OSError as error:  # the person knows the place, not the folder in it
            raise OSError(error.errno, error.strerror, str(place)) from error
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, REAL_FOLDER)
            with contextlib.suppress(OSError):  # no locks there
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.is_dir():
                return folder, lock
            os.close(lock)  # before it was locked, another process took it for a dead one's
