"""Which names may a study, an exported file or an exported folder have?

A name becomes a file's name here, in MLflow and on other people's machines, and appears in lines on terminals. So it is
a single part of a path, it is printable text, and it is short enough for the endings that are added to it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

from peftsweep.errors import PeftsweepError, UsageError
from peftsweep.safe_text.escaping import in_line
from peftsweep.safe_text.quoting import quoted

LONGEST = 200  # bytes in UTF-8; most disks take 255, and `studies.db.NAME.lock.holder` adds some
PART = 255  # bytes that file systems take for one part of a path
PATH = 4095  # bytes that the system takes for a whole path
PAGES = ("comparison.html", "selection.html")  # pages that lie beside the studies' folders


def refusal(name: str) -> str | None:
    """Why this cannot be a file's name, in a few words; None if it can."""
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
        return f"is {size} bytes long in UTF-8; at most {LONGEST} are allowed"
    return None


def study_refusal(name: str) -> str | None:
    """Why this cannot be a study's name, in a few words; None if it can."""
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
    """Why no host can have this name, in a few words; None if one can, or if the name is empty."""
    try:
        host.encode("idna")
    except UnicodeError:
        return "has an empty part in it, or one of more than 63 characters, as no host has"
    if in_line(host) != host or any(character in " /\\?#@" for character in host):
        return "has characters in it that no host has"
    return None


def shorten_name(name: str, room: int = LONGEST) -> str:
    """The name if it has at most `room` bytes in UTF-8, else its beginning and a digest of the whole."""
    whole = name.encode(errors="surrogatepass")
    if len(whole) <= room:
        return name
    digest = hashlib.sha256(whole).hexdigest()[:16]
    return f"{whole[: room - 17].decode(errors='ignore')}-{digest}"


def file_name(text: str, room: int = LONGEST) -> str:
    """A file's name for any text: quoted as in a URL, and at most `room` bytes long."""
    return shorten_name(quote(text, safe="", errors="surrogatepass"), room)


def parse_path(text: str | Path, what: str, error: type[PeftsweepError]) -> Path:
    """A path that a person gave, with `~` expanded.

    Args:
        what: where the path was given, for the message.

    Raises:
        error: no file can have this path (see `check_path`), or there is no such user.
    """
    try:
        return check_path(Path(text).expanduser(), what, error)
    except RuntimeError as unknown:
        raise error(f"{what}: {quoted(str(text))}: there is no such user") from unknown


def check_path(path: Path, what: str, error: type[PeftsweepError]) -> Path:
    """The path, if a file can have it.

    Raises:
        error: the path or a part of it is too long, or has characters that no file can have.
    """
    try:
        if "\0" in str(path):
            raise ValueError
        sizes = [len(os.fsencode(part)) for part in path.parts]
    except ValueError as impossible:  # half of a surrogate pair
        raise error(f"{what}: {quoted(str(path))}: no file can have this name") from impossible
    if max(sizes, default=0) > PART or sum(sizes) + len(sizes) > PATH:
        raise error(f"{what}: {quoted(str(path))} is too long: a name has at most {PART} bytes, a whole path {PATH}")
    return path
