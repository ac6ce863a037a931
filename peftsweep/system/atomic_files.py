"""Files and folders that are written aside and renamed: a reader finds a whole one or none.

An aside lies in a hidden folder of its own, `.peftsweep-PLACE-RANDOM`, beside its target. Its process holds a lock on
that folder, which is gone when the process is, however it ends. So the next process that writes there knows what a
killed one has left, and removes it, whatever container or PID the other had, and whatever the clock says.

Such a lock is known to one kernel, and there by one mounting of a disk. PLACE stands for both. What was written under
another one, as by another machine, before a restart, or where folders have no locks, is left for a day.

A folder that gives way to a new one lies in `.peftsweep-old` meanwhile, and is never removed from there: if a process
was killed before the new one stood, it comes back as soon as somebody writes to its name and nothing else has it.

Such names may be anybody's, in places where everybody may write. So nothing is removed, and nothing comes back, but out
of real folders of this user's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

DAY = 86_400.0  # seconds
NAME = re.compile(r"\.peftsweep-(?P<place>[0-9a-f]{8})-[0-9a-f]{8}")
OLD = ".peftsweep-old"  # inside an aside's folder: the folder of what gives way to a folder
NONE = re.compile(r"(?!)")
REAL = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW  # no link to a folder
# as version 0.1 named them, where a person is not likely to keep files of such a name
EARLIER_FILES = re.compile(
    r"mlflow\.db|comparison\.html|selection\.html|adapter|owner\.json|validation\.safetensors|confusion_matrix\.png"
    r"|checkpoint-\d+|.+\.gguf|.+-[0-9a-f]{8,}"
)
EARLIER = (
    re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)(?P<ending>\.old|-journal|-wal|-shm|)"),
    re.compile(r"\.(?P<pid>\d+)-(?P<name>.+)(?P<ending>)"),
)
HIGHEST = 2**22  # PID; a number above it, such as a date, is none

_temporary: dict[Path, int] = {}  # this process's temporary folders, and the locks on them


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A path beside the target, at which nothing is yet. `put` gives it the target's name; whatever is there at the end
    is removed, and so is what dead processes left in that folder. The target's folder is made if it is not there.
    """
    tidy(target)
    folder, lock = _made(target.parent)
    try:
        yield folder / target.name
    finally:
        _clear(folder)
        os.close(lock)


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """A path beside the target, for the file or folder that takes its place if nothing is raised."""
    with aside(target) as path:
        yield path
        put(path, target)


def put(path: Path, target: Path) -> None:
    """Give an aside its target's name. A folder that is there gives way, and is gone only when the new one stands."""
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
                old.rename(path)  # where it is removed as all that is left of an aside


def tidy(target: Path) -> None:
    """Remove what dead processes wrote aside in the target's folder, of this target and of others. If the target
    was about to give way to another folder, it comes back."""
    _tidy(target.parent, re.compile(re.escape(target.name)))


def tidy_below(folder: Path) -> None:
    """The same in a folder that holds nothing but what this program writes, and in all folders below it."""
    for place, _, _ in os.walk(folder):
        _tidy(Path(place), EARLIER_FILES)


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder in the system's temporary place, for this process alone; those of dead processes are removed."""
    folder = make_temporary()
    try:
        yield folder
    finally:
        remove_temporary(folder)


def make_temporary() -> Path:
    """The same, to be removed by `remove_temporary`."""
    place = Path(tempfile.gettempdir())
    _tidy(place, NONE)
    folder, lock = _made(place)
    _temporary[folder] = lock
    return folder


def has_temporary(folder: Path) -> bool:
    """Whether it is still there, and the one that was made: many systems remove what lies long in that place."""
    try:
        return os.path.samestat(os.fstat(_temporary[folder]), folder.lstat())
    except FileNotFoundError:
        return False


def remove_temporary(folder: Path) -> None:
    if has_temporary(folder):
        shutil.rmtree(folder, ignore_errors=True)
    os.close(_temporary.pop(folder))


def _made(place: Path) -> tuple[Path, int]:
    """A new folder for an aside, in which nobody else can write, and the lock on it."""
    place.mkdir(parents=True, exist_ok=True)
    while True:
        folder = place / f".peftsweep-{_told(place)}-{secrets.token_hex(4)}"
        try:
            folder.mkdir(0o700)
        except OSError as error:  # the person knows that place, and not the folder in it
            raise OSError(error.errno, error.strerror, str(place)) from error
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, REAL)
            with contextlib.suppress(OSError):  # folders have no locks there
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.is_dir():
                return folder, lock
            os.close(lock)  # another process took it for a dead one's before it was locked


@cache
def _kernel() -> str:
    """What tells this run of this machine from others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:  # no Linux
        return socket.gethostname()


def _told(place: Path) -> str:
    return hashlib.sha256(f"{_kernel()} {place.stat().st_dev}".encode()).hexdigest()[:8]


def _tidy(place: Path, names: re.Pattern[str]) -> None:
    """
    Args:
        names: what may come back there, and what asides by version 0.1 may be of.
    """
    try:
        beside = [Path(entry.path) for entry in os.scandir(place)]
    except OSError:
        return
    for path in beside:
        with contextlib.suppress(OSError):  # it is another user's, or has gone meanwhile
            if found := NAME.fullmatch(path.name):
                _remove(path, found["place"], names)
            elif (found := _earlier(path.name, names)) and path.lstat().st_uid == os.geteuid():
                _remove_earlier(path, found)


def _remove(folder: Path, told: str, names: re.Pattern[str]) -> None:
    """Remove an aside's folder, unless its process may be alive. What gave way comes back in any case: only a process
    that is between two renames can want it, and there it fails and loses nothing."""
    with _ours(folder) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sure = told == _told(folder.parent)
        except BlockingIOError:
            return
        except OSError:
            sure = False
        with contextlib.suppress(FileNotFoundError), _ours(OLD, lock) as old:
            _bring_back(old, folder.parent, names)
        if sure or _is_old(folder):
            _clear(folder)


@contextmanager
def _ours(folder: str | Path, within: int | None = None) -> Iterator[int]:
    """A descriptor of this user's folder.

    Args:
        within: the descriptor of the folder that it lies in.

    Raises:
        OSError: it is another user's, or a link, or no folder.
    """
    opened = os.open(folder, REAL, dir_fd=within)
    try:
        if os.fstat(opened).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(folder))
        yield opened
    finally:
        os.close(opened)


def _bring_back(old: int, place: Path, names: re.Pattern[str]) -> None:
    """Give what was about to give way its name again, if nothing else has it."""
    for name in filter(names.fullmatch, os.listdir(old)):
        ours = os.stat(name, dir_fd=old, follow_symlinks=False).st_uid == os.geteuid()
        if ours and not os.path.lexists(place / name):
            os.rename(name, place / name, src_dir_fd=old)


def _clear(folder: Path) -> None:
    """Remove an aside's folder, unless there is still in it what gave way to another folder."""
    with contextlib.suppress(OSError):  # it is not empty
        with contextlib.suppress(FileNotFoundError):
            (folder / OLD).rmdir()
        shutil.rmtree(folder, ignore_errors=True)


def _is_old(path: Path) -> bool:
    """Whether nothing was written there for a day, by the clock of the disk: this machine's may be wrong."""
    with tempfile.TemporaryFile(dir=path.parent) as probe:
        now = os.fstat(probe.fileno()).st_ctime
    return now - max(each.lstat().st_ctime for each in (path, *path.rglob("*"))) > DAY


def _earlier(name: str, earlier: re.Pattern[str]) -> re.Match[str] | None:
    """What the name of an aside by version 0.1 says; None of any other file."""
    for each in EARLIER:
        found = each.fullmatch(name)
        if found and earlier.fullmatch(found["name"]) and EARLIER_FILES.fullmatch(found["name"]):
            return found if int(found["pid"]) <= HIGHEST else None
    return None


def _remove_earlier(path: Path, found: re.Match[str]) -> None:
    """Remove what it wrote, unless its process may be alive, of which nothing but a number is known."""
    with contextlib.suppress(PermissionError):  # it is another user's
        try:
            os.kill(int(found["pid"]), 0)
        except ProcessLookupError:
            place = path.with_name(found["name"])
            if not _is_old(path):
                return
            new = path.with_name(path.name.removesuffix(found["ending"]))
            old = new.with_name(f"{new.name}.old")
            if path == old and not os.path.lexists(place):
                path.rename(place)
            elif os.path.lexists(new) and os.path.lexists(old):
                return  # the new one has never stood, and the old one is nowhere else
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
