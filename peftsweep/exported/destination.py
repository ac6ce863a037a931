"""Where an export may stand, and what it may replace."""

from __future__ import annotations

import os
from pathlib import Path

from peftsweep import names
from peftsweep.errors import ExportError, UsageError
from peftsweep.exported import manifest as manifests
from peftsweep.quoting import quoted, word

SHOWN = 5  # names that a message lists


def destination(folder: str | Path) -> Path:
    """The folder as a person gives it, links followed.

    Raises:
        UsageError: no folder can be there.
    """
    to = Path(os.path.realpath(names.path(folder, "DEST", UsageError)))
    for part in (to, *to.parents):
        if part != to and part.exists():
            break
        if why := names.refusal(part.name):
            raise UsageError(f"DEST: {quoted(str(folder))}: the name {quoted(part.name)} {why}; give another")
    return to


def check_free(to: Path, *, force: bool) -> None:
    """Nothing is there, or an empty folder; or what an export made, if that may be replaced, and nothing besides.

    Raises:
        UsageError: something would be lost.
    """
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    if not force:
        raise UsageError(f"{to} is there already; --force replaces it, or give another folder")
    try:
        strange = manifests.foreign(to, manifests.said(to))
    except ExportError as error:
        raise UsageError(
            f"{to} was not made by `peftsweep export`, and is not replaced; give another folder ({error})"
        ) from error
    if strange:
        more = f" and {len(strange) - SHOWN} more" if strange[SHOWN:] else ""
        listed = ", ".join(map(word, strange[:SHOWN])) + more
        raise UsageError(f"{to} is not replaced, for it has {listed} besides what was exported; move that away first")
