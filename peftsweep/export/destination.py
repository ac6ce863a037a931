"""Where may an export be written, and what may it replace?"""

from __future__ import annotations

import os
from pathlib import Path

from peftsweep.errors import ExportError, UsageError
from peftsweep.export import manifest as manifests
from peftsweep.safe_text.quoting import PATH, quoted, word
from peftsweep.system import names
from peftsweep.system.folders import within

SHOWN = 5  # most names in a message


def destination(folder: str | Path) -> Path:
    """The folder to write, with links resolved.

    Raises:
        UsageError: it cannot be a folder for an export.
    """
    to = Path(os.path.realpath(names.parse_path(folder, "DEST", UsageError)))
    if within(Path.cwd(), to):
        raise UsageError(f"DEST: {word(str(folder), PATH)} is the working folder or contains it; give a new folder")
    for part in (to, *to.parents):
        if part != to and part.exists():
            break
        if why := names.refusal(part.name):
            raise UsageError(f"DEST: {quoted(str(folder))}: the name {quoted(part.name)} {why}; give another name")
    return to


def check_outside(to: Path, study: Path) -> None:
    """Exports may not be among artifacts: sweeps remove unknown files there.

    Args:
        study: the folder of the study's artifacts.

    Raises:
        UsageError: the export would be inside the folder of artifacts, or contain it.
    """
    root = Path(os.path.realpath(study)).parent
    if within(to, root) or within(root, to):
        raise UsageError(
            f"DEST: an export cannot be written to {to}: sweeps keep their artifacts in {root}; give another folder"
        )


def check_free(to: Path, *, force: bool) -> None:
    """Check that writing here loses nothing. With `force`, an earlier export may be replaced, even if its files are
    damaged or missing; but not if files were added to it or its card was edited.

    Args:
        force: replace an earlier export.

    Raises:
        UsageError: something would be lost.
    """
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    if not force:
        raise UsageError(f"{to} exists already; give another folder, or replace the earlier export with --force")
    try:
        found = manifests.read_manifest(to)
        added = manifests.added_files(to, found)
    except ExportError as error:
        raise UsageError(
            f"{to} was not written by `peftsweep export`, so it is not replaced; give another folder ({error})"
        ) from error
    if added:
        more = f" and {len(added) - SHOWN} more" if added[SHOWN:] else ""
        listed = ", ".join(map(word, added[:SHOWN])) + more
        raise UsageError(f"{to} is not replaced because of what was added to it ({listed}); move that away first")
    if manifests.is_card_edited(to, found):
        raise UsageError(f"{to} is not replaced because its {manifests.CARD} was edited; move that away first")
