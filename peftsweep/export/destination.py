"""Where an export may stand, and what it may replace."""

from __future__ import annotations

import os
from pathlib import Path

from peftsweep.errors import ExportError, UsageError
from peftsweep.export import manifest as manifests
from peftsweep.safe_text.quoting import PATH, quoted, word
from peftsweep.system import names
from peftsweep.system.folders import within

SHOWN = 5  # names that a message lists


def destination(folder: str | Path) -> Path:
    """The folder as a person gives it, links followed.

    Raises:
        UsageError: no folder can be there.
    """
    to = Path(os.path.realpath(names.parse_path(folder, "DEST", UsageError)))
    if within(Path.cwd(), to):
        raise UsageError(
            f"DEST: {word(str(folder), PATH)} is the working folder, or above it; name a folder of its own"
        )
    for part in (to, *to.parents):
        if part != to and part.exists():
            break
        if why := names.refusal(part.name):
            raise UsageError(f"DEST: {quoted(str(folder))}: the name {quoted(part.name)} {why}; give another")
    return to


def check_outside(to: Path, study: Path) -> None:
    """Sweeps remove what they do not know in their folders.

    Args:
        study: the folder of the study's artifacts.

    Raises:
        UsageError: the export would lie among artifacts, or artifacts in it.
    """
    root = Path(os.path.realpath(study)).parent
    if within(to, root) or within(root, to):
        raise UsageError(f"DEST: {to} is no place for an export: sweeps keep their artifacts in {root}; give another")


def check_free(to: Path, *, force: bool) -> None:
    """Nothing is there, or an empty folder; or what an export made, if that may be replaced, and nothing besides. Files
    that were exported may be spoilt or gone, for that is what to export again is for, but nobody's own words are lost.

    Raises:
        UsageError: something would be lost.
    """
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    if not force:
        raise UsageError(
            f"{to} is there already; --force replaces it and all that was exported there, or give another folder"
        )
    try:
        found = manifests.said(to)
        strange = manifests.foreign(to, found)
    except ExportError as error:
        raise UsageError(
            f"{to} was not made by `peftsweep export`, and is not replaced; give another folder ({error})"
        ) from error
    if strange:
        more = f" and {len(strange) - SHOWN} more" if strange[SHOWN:] else ""
        listed = ", ".join(map(word, strange[:SHOWN])) + more
        raise UsageError(f"{to} is not replaced, for it has {listed} besides what was exported; move that away first")
    if manifests.own_words(to, found):
        raise UsageError(f"{to} is not replaced, for its {manifests.CARD} was edited; move that away first")
