"""MLflow made level with the studies, after it was down or wiped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from peftsweep.errors import StorageError, StudyBusyError, TrackingError
from peftsweep.storage import StoredStudy, Studies, check_apart, guarded, settle
from peftsweep.study import results
from peftsweep.sweep.projection import Projection
from peftsweep.sweep.publishing import drawn
from peftsweep.tracking import Tracker, check_address

SAID = {"level": "nothing was missing", "running": "its sweep is running, and writes to MLflow itself"}
PATIENCE = 3600.0  # seconds for one study: a thousand trials' artifacts take minutes


def sync(
    *,
    studies: Sequence[str] | None = None,
    storage: str = results.STORAGE,
    tracking_uri: str = "sqlite:///mlflow.db",
    note: Callable[[str], object] = lambda text: None,
) -> dict[str, str]:
    """Write to MLflow what it lacks of the studies. What is there already is left as it is.

    Args:
        studies: only these.
        note: gets a line about each study: what was written. Of one that was "not written", the error says more.

    Returns:
        By study: "level" (nothing was lacking), "written", or "running" (a sweep is at it, and tells MLflow itself).

    Raises:
        UsageError: a study that is not in the storage, or one file for both.
        StorageError: the storage does not answer.
        TrackingError: MLflow does not; or, when all studies have had their turn, it refused something. The studies are
            as they were.
    """
    check_address(tracking_uri)
    check_apart(storage, tracking_uri)
    done: dict[str, str] = {}
    lacking: list[str] = []
    with guarded(storage):
        opened, found = results.opened(storage, studies, note)
        for study in found:
            wrote: list[str] = []
            state = done[study.study_name] = _sync(opened, study, tracking_uri, lacking, wrote)
            note(f"{study.study_name}: {SAID.get(state, state)}" + (f" ({', '.join(wrote)})" if wrote else ""))
    if lacking:
        raise TrackingError("\n".join([*lacking, "Nothing is lost; try again: peftsweep sync"]))
    return done


def _sync(studies: Studies, study: StoredStudy, tracking_uri: str, lacking: list[str], wrote: list[str]) -> str:
    """What `sync` returns of a study.

    Args:
        lacking: gets a line for each thing that MLflow did not take; other studies do not wait for it.
        wrote: gets what was written, in a few words each.
    """
    name = study.study_name
    try:
        with studies.lease(name, "sync"):
            settle(study, studies.own_folder(name), studies.place)
            trackers = [_write(studies, study, tracking_uri)]
            if (seeds := studies.retrained(name)) is not None:  # their run is nested under the study's
                settle(seeds, studies.own_folder(seeds.study_name), studies.place, main=study)
                trackers.append(_write(studies, seeds, tracking_uri))
            runs = [tracker.counts for tracker in trackers if tracker is not None]
            pages = _missing_pages(studies, study, tracking_uri)
            trackers.append(_write_pages(study, tracking_uri, pages))
    except StudyBusyError:
        return "running"
    except StorageError as error:
        lacking.append(f"study {name!r}: {error}")
        return "not written"
    told = [tracker for tracker in trackers if tracker is not None]
    refused = [tracker.trouble or "it took too long" for tracker in told if not tracker.level]
    lacking += [f"study {name!r}: {why}" for why in dict.fromkeys(refused)]
    if refused:
        return "not written"
    made, updated = sum(made for made, _ in runs), sum(updated for _, updated in runs)
    wrote += [f"{n} run{'s' * (n > 1)} {what}" for n, what in ((made, "made"), (updated, "updated")) if n]
    wrote += [page.name for page in pages]
    return "written" if told else "level"


def _write(studies: Studies, study: StoredStudy, tracking_uri: str) -> Tracker | None:
    """Write what is lacking; returns the tracker that was told, if anything was."""
    name = study.study_name
    tracker = Tracker(tracking_uri, note=lambda text: None)
    projection = Projection(study, tracker, studies.own_folder(name))
    total = study.record.total
    total = len(study.records()) if total is None else total
    if projection.is_there(total):
        return None
    projection.open(whole=True)
    projection.close([], total, timeout=PATIENCE, patience=PATIENCE)
    return tracker


def _missing_pages(studies: Studies, study: StoredStudy, tracking_uri: str) -> list[Path]:
    """The comparisons that a study is on and that its experiment lacks, the oldest first: the run begins with it."""
    tracker = Tracker(tracking_uri, note=lambda text: None)
    pages = drawn(studies.url, study.study_name)
    missing = [page for page in pages if not tracker.compares(study.record.experiment, page, page.name)]
    return sorted(missing, key=lambda page: page.stat().st_mtime)


def _write_pages(study: StoredStudy, tracking_uri: str, pages: Sequence[Path]) -> Tracker | None:
    if not pages:
        return None
    tracker = Tracker(tracking_uri, note=lambda text: None)
    for page in pages:
        tracker.keep_comparison(study.record.experiment, page, page.name)
    tracker.close(timeout=PATIENCE, patience=PATIENCE)
    return tracker
