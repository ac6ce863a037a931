"""MLflow made level with the studies, after it was down or wiped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peftsweep import report
from peftsweep.errors import StorageError, StudyBusyError, TrackingError
from peftsweep.storage import StoredStudy, Studies, check_apart, guarded, settle
from peftsweep.sweep.comparing import drawn
from peftsweep.sweep.projection import Projection
from peftsweep.tracking import Tracker, check_address

PATIENCE = 3600.0  # seconds for one study: a thousand trials' artifacts take minutes


def sync(
    *,
    studies: Sequence[str] | None = None,
    storage: str = report.STORAGE,
    tracking_uri: str = "sqlite:///mlflow.db",
    note: Callable[[str], object] = lambda text: None,
) -> dict[str, str]:
    """Write to MLflow what it lacks of the studies. What is there already is left as it is.

    Args:
        studies: only these.
        note: told what was done with each study, in a line; "not written", too, of which the error says more.

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
        opened, found = report.opened(storage, studies, note)
        for study in found:
            done[study.study_name] = _sync(opened, study, tracking_uri, lacking)
            note(f"{study.study_name}: {done[study.study_name]}")
    if lacking:
        raise TrackingError("\n".join([*lacking, "Nothing is lost; try again: peftsweep sync"]))
    return done


def _sync(studies: Studies, study: StoredStudy, tracking_uri: str, lacking: list[str]) -> str:
    """What `sync` says of a study.

    Args:
        lacking: gets a line of what MLflow did not take; other studies are not to wait for that.
    """
    name = study.study_name
    try:
        with studies.lease(name, "sync"):
            settle(study, studies.own_folder(name), studies.place)
            trackers = [_write(studies, study, tracking_uri)]
            if (seeds := studies.retrained(name)) is not None:  # their run is nested under the study's
                settle(seeds, studies.own_folder(seeds.study_name), studies.place, main=study)
                trackers.append(_write(studies, seeds, tracking_uri))
            trackers.append(_write_pages(studies, study, tracking_uri))
    except StudyBusyError:
        return "running"
    except StorageError as error:
        lacking.append(f"study {name!r}: {error}")
        return "not written"
    told = [tracker for tracker in trackers if tracker is not None]
    refused = [tracker.trouble or "it took too long" for tracker in told if not tracker.level]
    lacking += [f"study {name!r}: {why}" for why in dict.fromkeys(refused)]
    return "not written" if refused else "written" if told else "level"


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


def _write_pages(studies: Studies, study: StoredStudy, tracking_uri: str) -> Tracker | None:
    """The same for the comparisons that it is on, in its experiment."""
    tracker = Tracker(tracking_uri, note=lambda text: None)
    experiment, pages = study.record.experiment, drawn(studies.url, study.study_name)
    missing = [page for page in pages if not tracker.compares(experiment, page, page.name)]
    if not missing:
        return None
    for page in sorted(missing, key=lambda page: page.stat().st_mtime):  # the run begins with the first
        tracker.keep_comparison(experiment, page, page.name)
    tracker.close(timeout=PATIENCE, patience=PATIENCE)
    return tracker
