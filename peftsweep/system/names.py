"""What a name may be: of a study, of a file in an exported folder, of the folder that an export makes.

A name becomes a file's name here, in MLflow and on the machines of others, and stands in lines on terminals. So it is
one part of a path and no more, it is text, and it leaves room for what is written beside it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

from peftsweep.errors import PeftsweepError, UsageError
from peftsweep.safe_text.escaping import in_line
from peftsweep.safe_text.quoting import quoted

LONGEST = 200  # bytes in UTF-8; and 255 are those of most disks: `studies.db.NAME.lock.holder` has more in it
PART = 255  # bytes that file systems take for one part of a path
PATH = 4095  # bytes that the system takes for a whole path
PAGES = ("comparison.html", "selection.html")  # of all studies and of some, beside the studies' folders


def refusal(name: str) -> str | None:
    """Why this cannot be a file's name, in a few words; None where it can."""
    if not name or name.isspace():
        return "is empty"
    if name in (".", ".."):
        return "is a folder's own name for itself or for the one above it"
    if any(separator in name for separator in "/\\"):
        return "has a slash or a backslash in it: it would lead into another folder"
    if in_line(name) != name:
        return "has characters in it that cannot be printed"
    if name != name.strip():
        return "begins or ends with a space"
    if (size := len(name.encode())) > LONGEST:
        return f"is {size} bytes long, in UTF-8; {LONGEST} are the most"
    return None


def study_refusal(name: str) -> str | None:
    """Why this cannot be a study's name, in a few words; None where it can."""
    if why := refusal(name):
        return why
    if name.startswith("."):
        return "begins with a dot, as hidden files do"
    return "is that of a page which lies beside the studies' folders" if name.casefold() in PAGES else None


def check_study(name: str) -> None:
    """Raises:
    UsageError: no study can have this name.
    """
    if why := study_refusal(name):
        raise UsageError(f"study {quoted(name)}: a study's name becomes that of a folder, and this one {why}")


def host_refusal(host: str) -> str | None:
    """Why no host can have this name, in a few words; None where one can, or where there is no name."""
    try:
        host.encode("idna")
    except UnicodeError:
        return "has an empty part in it, or one of more than 63 characters, as no host has"
    if in_line(host) != host or any(character in " /\\?#@" for character in host):
        return "has characters in it that no host has"
    return None


def fitting(name: str, room: int = LONGEST) -> str:
    """The name; where it has more than `room` bytes in UTF-8, its beginning and a digest of the whole."""
    whole = name.encode(errors="surrogatepass")
    if len(whole) <= room:
        return name
    digest = hashlib.sha256(whole).hexdigest()[:16]
    return f"{whole[: room - 17].decode(errors='ignore')}-{digest}"


def file_name(text: str, room: int = LONGEST) -> str:
    """A file's name for any text: as a part of a URL would have it, and no longer than `room` bytes."""
    return fitting(quote(text, safe="", errors="surrogatepass"), room)


def path(text: str | Path, what: str, error: type[PeftsweepError]) -> Path:
    """A path as a person gives it, `~` followed.

    Args:
        what: what the path is of, for the message.

    Raises:
        error: see `possible`; or there is no such user.
    """
    try:
        return possible(Path(text).expanduser(), what, error)
    except RuntimeError as unknown:
        raise error(f"{what}: {quoted(str(text))}: there is no such user") from unknown


def possible(path: Path, what: str, error: type[PeftsweepError]) -> Path:
    """The path, if a file can have it.

    Raises:
        error: a part of it is too long, or has characters that no file can have.
    """
    try:
        if "\0" in str(path):
            raise ValueError
        sizes = [len(os.fsencode(part)) for part in path.parts]
    except ValueError as impossible:  # half of a surrogate pair, which is no byte that was not UTF-8
        raise error(f"{what}: {quoted(str(path))}: no file can have this name") from impossible
    if max(sizes, default=0) > PART or sum(sizes) + len(sizes) > PATH:
        raise error(
            f"{what}: {quoted(str(path))} is too long: {PART} bytes are the most for a name, {PATH} for the whole path"
        )
    return path
