"""The comparison as a page: in a file, and in MLflow where its artifacts are looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peftsweep import dashboard
from peftsweep.comparison import Comparison
from peftsweep.comparison import compare as gathered
from peftsweep.errors import StorageError, UsageError
from peftsweep.storage import Studies, check_apart, guarded
from peftsweep.study import results
from peftsweep.system import names
from peftsweep.system.atomic_files import replaced
from peftsweep.system.leftovers import tidy
from peftsweep.tracking import COMPARISON, SELECTION, Tracker, check_address


@dataclass(frozen=True)
class Compared:
    """What `compare` left behind: the page, and the rows that it was drawn from."""

    page: Path
    rows: Comparison

    def as_dict(self) -> dict[str, Any]:
        """As JSON, without the trials' own points: those are on the page."""
        return {
            "page": str(self.page),
            "leaders": [asdict(leader) for leader in self.rows.leaders],
            "groups": [asdict(group) for group in self.rows.groups],
            "importance": {history.study: history.importance for history in self.rows.histories},
        }


def compare(
    *,
    studies: Sequence[str] | None = None,
    storage: str = results.STORAGE,
    tracking_uri: str = "sqlite:///mlflow.db",
    output: str | Path | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Compared:
    """Draw the studies side by side: one HTML page that needs no network.

    MLflow gets a copy, in a run of its own beside the studies' in each of their experiments; what was there of an
    earlier page is replaced. A page of some studies stands beside that of all. If MLflow does not answer, `note` is
    told and the file is there all the same.

    Args:
        studies: only these, and the page says so.
        output: the file to write, in place of `comparison.html` (of some studies `selection.html`) among the artifacts.
            If it is there, it must be an earlier page.

    Raises:
        UsageError: a study that is not in the storage, nothing in it, or a file that cannot be there.
        StorageError: the storage does not answer, or the disk is full. A page that was there stays as it was.
    """
    check_address(tracking_uri)
    check_apart(storage, tracking_uri)
    if output is not None:
        output = names.path(output, "-o", UsageError)
        _check_place(output)
    tracker = Tracker(tracking_uri, note=note)
    rows = gathered(storage, studies, note)
    page = _write(rows, storage, output)
    for experiment in sorted({leader.data for leader in rows.leaders if leader.data is not None}):
        tracker.keep_comparison(experiment, page, _name(rows))
    tracker.close()
    return Compared(page, rows)


def refresh(storage: str, tracker: Tracker, experiment: str, note: Callable[[str], None]) -> None:
    """Draw the page anew when a study has ended. Whatever goes wrong is a note: the study is what counts."""
    try:
        tracker.keep_comparison(experiment, _write(gathered(storage), storage, None))
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        note(f"the comparison was not drawn ({first}); to try again: peftsweep compare")


def drawn(storage: str, study: str) -> list[Path]:
    """The pages among the artifacts that a study is on: that of all, drawn if it is not there; that of some."""
    page, some = (Studies(storage).artifacts / name for name in (COMPARISON, SELECTION))
    tidy(page)
    whole = page if dashboard.is_page(page) else _write(gathered(storage), storage, None)
    return [whole, some] if study in dashboard.only_of(some) else [whole]


def _check_place(output: Path) -> None:
    """Before seconds are spent on it."""
    if output.is_dir():
        raise UsageError(f"-o {output}: a folder; name a file, such as {output / COMPARISON}")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"-o {output}: the folder {output.absolute().parent} is not there; make it, or name another")
    if os.path.lexists(output) and not dashboard.is_page(output):
        raise UsageError(f"-o {output}: a file that is no earlier page; it is left as it is: name another")


def _write(rows: Comparison, storage: str, output: str | Path | None) -> Path:
    """Aside, then renamed: nobody sees half a page."""
    with guarded(storage):
        page = Studies(storage).artifacts / _name(rows) if output is None else Path(output).absolute()
        if page.is_dir():
            raise StorageError(f"{page}: a folder is there, in the place of the page; move it away")
        if os.path.lexists(page) and not dashboard.is_page(page):
            raise StorageError(f"{page}: a file that is no earlier page, and is left as it is; move it away")
        page.parent.mkdir(parents=True, exist_ok=True)
        with replaced(page) as file:
            file.write_text(dashboard.page(rows.as_dict()), encoding="utf-8")
    return page


def _name(rows: Comparison) -> str:
    """Of the page, among the artifacts and in MLflow."""
    return COMPARISON if rows.only is None else SELECTION
