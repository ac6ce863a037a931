"""Where is the comparison page written? To a file, and to the tracker, which shows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peftsweep import dashboard
from peftsweep.comparison import Comparison
from peftsweep.comparison import compare as compare_studies
from peftsweep.errors import StorageError, UsageError, first_line
from peftsweep.storage import Studies, check_apart, guarded
from peftsweep.system import names
from peftsweep.system.atomic_files import replaced
from peftsweep.system.default_places import STORAGE, TRACKING
from peftsweep.system.leftovers import tidy
from peftsweep.tracking import COMPARISON, SELECTION, MlflowRuns, OpenSink, Tracker


@dataclass(frozen=True)
class ComparisonPage:
    """A page that `compare` wrote, and the rows that it shows."""

    page: Path
    rows: Comparison

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the points of single trials: those are on the page."""
        return {
            "page": str(self.page),
            "leaders": [leader.as_dict() for leader in self.rows.leaders],
            "groups": [asdict(group) for group in self.rows.groups],
            "importance": {history.study: history.importance for history in self.rows.histories},
        }


def compare(
    *,
    studies: Sequence[str] | None = None,
    storage: str = STORAGE,
    tracking_uri: str = TRACKING,
    output: str | Path | None = None,
    note: Callable[[str], None] = lambda text: None,
    sink: OpenSink = MlflowRuns,
) -> ComparisonPage:
    """Compare studies on one HTML page that needs no network.

    The tracker gets a copy for the data of each study (in MLflow: for each experiment, in a run of its own), which
    replaces the earlier page. A page of selected studies is stored beside the page of all. If the tracker does not
    answer, `note` gets a warning; the file is written anyway.

    Args:
        studies: compare only these; the page says so.
        output: file to write. By default `comparison.html`, or `selection.html` for selected studies, in the folder of
            artifacts. An existing file is replaced only if it is such a page.
        sink: opens the tracker at `tracking_uri`.

    Raises:
        UsageError: a study is not in the storage, the storage has none, or `output` cannot be written.
        StorageError: the storage does not answer, or the disk is full. An earlier page is left unchanged.
    """
    check_apart(storage, tracking_uri)
    opened_sink = sink(tracking_uri)
    if output is not None:
        output = names.parse_path(output, "-o", UsageError)
        _check_place(output)
    tracker = Tracker(opened_sink, note=note)
    rows = compare_studies(storage, studies, note)
    page = _write(rows, storage, output)
    for data in sorted({leader.data for leader in rows.leaders if leader.data is not None}):
        tracker.store_page(data, page, _name(rows))
    tracker.close()
    return ComparisonPage(page, rows)


def redraw(storage: str, tracker: Tracker, data: str, note: Callable[[str], None]) -> None:
    """Draw the page again when a study has ended. A failure becomes a note: it must not fail the study."""
    try:
        tracker.store_page(data, _write(compare_studies(storage), storage, None))
    except Exception as error:
        note(f"the comparison page was not written ({first_line(error)}); to try again: peftsweep compare")


def pages_with(storage: str, study: str) -> list[Path]:
    """Pages in the folder of artifacts that show a study: that of all studies, which is drawn if missing, and that of
    selected ones."""
    page, selection = (Studies(storage).artifacts / name for name in (COMPARISON, SELECTION))
    tidy(page)
    whole = page if dashboard.is_page(page) else _write(compare_studies(storage), storage, None)
    return [whole, selection] if study in dashboard.only_of(selection) else [whole]


def _check_place(output: Path) -> None:
    """Find mistakes before seconds are spent on the comparison."""
    if output.is_dir():
        raise UsageError(f"-o {output}: this is a folder; give a file, such as {output / COMPARISON}")
    if not output.absolute().parent.is_dir():
        raise UsageError(
            f"-o {output}: the folder {output.absolute().parent} does not exist; create it, or give another file"
        )
    if os.path.lexists(output) and not dashboard.is_page(output):
        raise UsageError(f"-o {output}: this file is not a page of peftsweep, so it is not replaced; give another file")


def _write(rows: Comparison, storage: str, output: str | Path | None) -> Path:
    """Write the page to a temporary file and rename it, so that nobody reads half a page."""
    with guarded(storage):
        page = Studies(storage).artifacts / _name(rows) if output is None else Path(output).absolute()
        if page.is_dir():
            raise StorageError(f"{page}: a folder is in the place of the page; move it away")
        if os.path.lexists(page) and not dashboard.is_page(page):
            raise StorageError(f"{page}: this file is not a page of peftsweep, so it is not replaced; move it away")
        page.parent.mkdir(parents=True, exist_ok=True)
        with replaced(page) as file:
            file.write_text(dashboard.page(rows.as_dict()), encoding="utf-8")
    return page


def _name(rows: Comparison) -> str:
    """File name of the page."""
    return COMPARISON if rows.only is None else SELECTION
