"""What may be removed of files that dead processes wrote aside?

Files are written aside in a hidden folder `.peftsweep-PLACE-RANDOM` beside their target (`atomic_files`). The process
that made the folder holds a lock on it, and the lock is gone when the process is, however it ended. So the next process
that writes there can tell what a killed one left and remove it, whatever its PID or container, and whatever the clock
says.

Only one kernel knows such a lock, and it knows it for one mount of a disk. PLACE is a digest of both. A folder with
another PLACE (another machine, an earlier boot), or on a disk without locks for folders, is removed after a day.

A folder that is being replaced waits in `.peftsweep-old` inside the aside's folder, and is never removed from there. If
the process was killed before the new folder stood, the next one to write to that name moves the old folder back, unless
something else has the name by then.

Anybody may have made such names in places where everybody may write. So nothing is removed or moved back except out of
real folders that belong to this user.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

DAY = 86_400.0  # seconds
NAME = re.compile(r"\.peftsweep-(?P<place>[0-9a-f]{8})-[0-9a-f]{8}")
OLD = ".peftsweep-old"  # inside an aside's folder: holds the folder that is being replaced
NO_NAME = re.compile(r"(?!)")
REAL_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW  # not a link to one
# Version 0.1 used other names. Only these targets count, so that no file of a person's is taken for an aside.
EARLIER_TARGETS = re.compile(
    r"mlflow\.db|comparison\.html|selection\.html|adapter|owner\.json|validation\.safetensors|confusion_matrix\.png"
    r"|checkpoint-\d+|.+\.gguf|.+-[0-9a-f]{8,}"
)
EARLIER_NAMES = (
    re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)(?P<ending>\.old|-journal|-wal|-shm|)"),
    re.compile(r"\.(?P<pid>\d+)-(?P<name>.+)(?P<ending>)"),
)
HIGHEST_PID = 2**22  # a larger number, such as a date, is no PID


def tidy(target: Path) -> None:
    """Remove what dead processes wrote aside in the target's folder, for this target and for others. If the target was
    being replaced by another folder, it is moved back."""
    tidy_folder(target.parent, re.compile(re.escape(target.name)))


def tidy_below(folder: Path) -> None:
    """Tidy a folder in which only this program writes, and all folders below it."""
    for place, _, _ in os.walk(folder):
        tidy_folder(Path(place), EARLIER_TARGETS)


def tidy_folder(place: Path, targets: re.Pattern[str] = NO_NAME) -> None:
    """Remove what dead processes wrote aside directly in a folder.

    Args:
        targets: names that may be moved back, and whose asides by version 0.1 may be removed.
    """
    try:
        paths = [Path(entry.path) for entry in os.scandir(place)]
    except OSError:
        return
    for path in paths:
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            if found := NAME.fullmatch(path.name):
                _tidy_aside(path, found["place"], targets)
            elif (found := _earlier(path.name, targets)) and path.lstat().st_uid == os.geteuid():
                _tidy_earlier(path, found)


def place_id(place: Path) -> str:
    """Digest of this boot of this machine and of a folder's disk: processes with the same digest share locks."""
    return hashlib.sha256(f"{_boot()} {place.stat().st_dev}".encode()).hexdigest()[:8]


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:  # not Linux
        return socket.gethostname()


def clear(folder: Path) -> None:
    """Remove an aside's folder, unless a folder that was being replaced is still in it."""
    with contextlib.suppress(OSError):  # OLD is not empty
        with contextlib.suppress(FileNotFoundError):
            (folder / OLD).rmdir()
        shutil.rmtree(folder, ignore_errors=True)


def _tidy_aside(folder: Path, place: str, targets: re.Pattern[str]) -> None:
    """Remove an aside's folder unless its process may be alive. The folder that was being replaced is moved back even
    where that is not sure: a living process loses nothing by it, for its next rename fails."""
    with _own_folder(folder) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead = place == place_id(folder.parent)
        except BlockingIOError:
            return
        except OSError:  # no locks there
            dead = False
        with contextlib.suppress(FileNotFoundError), _own_folder(OLD, lock) as old:
            _move_back(old, folder.parent, targets)
        if dead or _is_old(folder):
            clear(folder)


@contextmanager
def _own_folder(folder: str | Path, within: int | None = None) -> Iterator[int]:
    """A descriptor of this user's folder.

    Args:
        within: the descriptor of the folder that it lies in.

    Raises:
        OSError: it is another user's, or a link, or no folder.
    """
    opened = os.open(folder, REAL_FOLDER, dir_fd=within)
    try:
        if os.fstat(opened).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(folder))
        yield opened
    finally:
        os.close(opened)


def _move_back(old: int, place: Path, targets: re.Pattern[str]) -> None:
    for name in filter(targets.fullmatch, os.listdir(old)):
        own = os.stat(name, dir_fd=old, follow_symlinks=False).st_uid == os.geteuid()
        if own and not os.path.lexists(place / name):
            os.rename(name, place / name, src_dir_fd=old)


def _is_old(path: Path) -> bool:
    """Whether nothing was written there for a day, by the disk's clock: this machine's may be wrong."""
    with tempfile.TemporaryFile(dir=path.parent) as probe:
        now = os.fstat(probe.fileno()).st_ctime
    return now - max(each.lstat().st_ctime for each in (path, *path.rglob("*"))) > DAY


def _earlier(name: str, targets: re.Pattern[str]) -> re.Match[str] | None:
    """The parts of a name that version 0.1 gave to an aside; None for any other name."""
    for each in EARLIER_NAMES:
        found = each.fullmatch(name)
        if found and targets.fullmatch(found["name"]) and EARLIER_TARGETS.fullmatch(found["name"]):
            return found if int(found["pid"]) <= HIGHEST_PID else None
    return None


def _tidy_earlier(path: Path, found: re.Match[str]) -> None:
    """Remove an aside of version 0.1 unless its process may be alive. Only the PID is known of that."""
    with contextlib.suppress(PermissionError):  # another user's process
        try:
            os.kill(int(found["pid"]), 0)
        except ProcessLookupError:
            target = path.with_name(found["name"])
            if not _is_old(path):
                return
            new = path.with_name(path.name.removesuffix(found["ending"]))
            old = new.with_name(f"{new.name}.old")
            if path == old and not os.path.lexists(target):
                path.rename(target)
            elif os.path.lexists(new) and os.path.lexists(old):
                return  # the new one never stood, and the old one is nowhere else
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
