"""Files and folders that are written aside and renamed: a reader finds a whole one or none.

A process that is killed leaves behind what it was writing. The next process that writes in the same folder removes it,
for the name of an aside says who writes it: `.NAME.peftsweep-PID-MACHINE-N` beside NAME.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
DAY = 86_400.0  # seconds after which an aside of another machine, whose processes nobody sees here, is abandoned
CLOCKS = 600.0  # seconds by which the clocks of a machine and of its file server may differ
OLD = ".old"  # the ending of a folder that gives way to a new one
_ENDING = r"(?P<ending>\.old|-journal|-wal|-shm|)"  # the last three: what SQLite keeps beside a database
NAME = re.compile(rf"\.(?P<name>.+)\.peftsweep-(?P<pid>\d+)-(?P<machine>[0-9a-f]{{8}})-\w+{_ENDING}")
# as version 0.1 named them, where a person is not likely to keep files of such a name
EARLIER_FILES = re.compile(
    r"mlflow\.db|comparison\.html|selection\.html|adapter|owner\.json|validation\.safetensors|confusion_matrix\.png"
    r"|checkpoint-\d+|.+\.gguf|.+-[0-9a-f]{8,}"
)
EARLIER = (
    re.compile(rf"\.(?P<name>.+)\.(?P<pid>\d+){_ENDING}"),
    re.compile(r"\.(?P<pid>\d+)-(?P<name>.+)(?P<ending>)"),
)
HIGHEST = 2**22  # PID; a number above it, such as a date, is none
TEMPORARY = "temporary"  # the name of folders in the system's temporary place

_count = itertools.count()
_ours: set[str] = set()  # names that this process writes now: its PID may be that of a dead one, as in a container


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A path beside the target, at which nothing is yet. `put` gives it the target's name; whatever is there at the end
    is removed, and so is what dead processes left of the same target."""
    tidy(target)
    path = target.with_name(f"{_stem(target.name)}{next(_count)}")
    _ours.add(path.name)
    try:
        yield path
    finally:
        for ending in ("", "-journal", "-wal", "-shm"):
            _remove(path.with_name(path.name + ending))
        _ours.discard(path.name)


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
    old = path.with_name(path.name + OLD)
    try:
        target.rename(old)
        path.rename(target)
    finally:  # a signal may come between any two of these
        if target.exists():
            _remove(old)
        elif old.exists():
            old.rename(target)


def tidy(target: Path) -> None:
    """Remove what dead processes wrote aside in the target's folder, of this target and of others. A folder that was
    about to give way comes back if no other stands in its place."""
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
        _remove(folder)
        _ours.discard(folder.name)


def make_temporary() -> Path:
    """The same, to be removed by the caller."""
    place = Path(tempfile.gettempdir())
    tidy(place / TEMPORARY)
    folder = Path(tempfile.mkdtemp(prefix=_stem(TEMPORARY), dir=place))
    _ours.add(folder.name)
    return folder


def _stem(name: str) -> str:
    return f".{name}.peftsweep-{os.getpid()}-{MACHINE}-"


def _tidy(folder: Path, earlier: re.Pattern[str]) -> None:
    try:
        beside = list(os.scandir(folder))
    except OSError:
        return
    for entry in beside:
        found = _parsed(entry.name, earlier)
        if found is None or not _is_dead(entry, found):
            continue
        path, place = Path(entry.path), folder / found["name"]
        if found["ending"] == OLD and not os.path.lexists(place):
            with contextlib.suppress(OSError):
                path.rename(place)
        else:
            _remove(path)


def _parsed(name: str, earlier: re.Pattern[str]) -> re.Match[str] | None:
    """What the name of an aside says; None of any other file.

    Args:
        earlier: what asides by version 0.1 may be of.
    """
    if found := NAME.fullmatch(name):
        return found
    for each in EARLIER:
        if (
            (found := each.fullmatch(name))
            and earlier.fullmatch(found["name"])
            and EARLIER_FILES.fullmatch(found["name"])
            and int(found["pid"]) <= HIGHEST
        ):
            return found
    return None


def _is_dead(entry: os.DirEntry[str], found: re.Match[str]) -> bool:
    """Whether the process that wrote it is gone. Of another machine's process nothing is known, but for its age."""
    if entry.name.removesuffix(found["ending"]) in _ours:
        return False
    try:
        written = entry.stat(follow_symlinks=False).st_ctime  # of a folder that gives way, too: when it was renamed
    except OSError:
        return False  # it has gone meanwhile
    pid, machine = int(found["pid"]), found.groupdict().get("machine", MACHINE)
    if machine != MACHINE:
        return time.time() - written > DAY
    return pid == os.getpid() or not _runs(pid, written)


def _runs(pid: int, at: float) -> bool:
    """Whether the process that had this PID at that time (seconds since 1970) still runs."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        booted = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return True  # no Linux
    started = float(booted[1]) + int(numbers[18]) / os.sysconf("SC_CLK_TCK") if booted else 0.0
    return state not in "ZX" and started < at + CLOCKS


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
