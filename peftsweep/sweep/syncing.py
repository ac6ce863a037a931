"""How does the tracker get what it lacks of the studies, after it was down or wiped?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from peftsweep.errors import StorageError, StudyBusyError, TrackingError
from peftsweep.storage import StoredStudy, Studies, check_apart, guarded, settle
from peftsweep.study import results
from peftsweep.sweep.projection import Projection
from peftsweep.sweep.publishing import pages_with
from peftsweep.system.default_places import STORAGE, TRACKING
from peftsweep.tracking import MlflowRuns, OpenSink, Tracker

Track = Callable[[], Tracker]  # opens the tracker anew, since a tracker that was closed takes nothing more
PATIENCE = 3600.0  # seconds for one study: a thousand trials' artifacts take minutes


def sync(
    *,
    studies: Sequence[str] | None = None,
    storage: str = STORAGE,
    tracking_uri: str = TRACKING,
    note: Callable[[str], object] = lambda text: None,
    sink: OpenSink = MlflowRuns,
) -> dict[str, str]:
    """Write to the tracker what it lacks of the studies. What it has already is left unchanged.

    Args:
        studies: only these.
        note: gets a line for each study that says what was written. For a study that was "not written", the error says
            why.
        sink: opens the tracker at `tracking_uri`.

    Returns:
        By study: "in sync" (nothing was missing), "written", or "running" (its sweep writes to the tracker itself).

    Raises:
        UsageError: a study is not in the storage, or both URLs name the same file.
        StorageError: the storage does not answer.
        TrackingError: the tracker does not answer; or it refused something, which is raised after all studies were
            tried. The studies are unchanged.
    """
    check_apart(storage, tracking_uri)
    track = partial(_tracker, sink, tracking_uri)
    running = f"its sweep is running, and writes to {sink(tracking_uri).name} itself"
    messages = {"in sync": "nothing was missing", "running": running}
    done: dict[str, str] = {}
    failures: list[str] = []
    with guarded(storage):
        opened, found = results.opened(storage, studies, note)
        for study in found:
            written: list[str] = []
            state = done[study.study_name] = _sync(opened, study, track, failures, written)
            note(f"{study.study_name}: {messages.get(state, state)}" + (f" ({', '.join(written)})" if written else ""))
    if failures:
        raise TrackingError("\n".join([*failures, "Nothing is lost; try again: peftsweep sync"]))
    return done


def _tracker(sink: OpenSink, tracking_uri: str) -> Tracker:
    """A tracker without warnings: the errors of `sync` say what it refused."""
    return Tracker(sink(tracking_uri), note=lambda text: None)


def _sync(studies: Studies, study: StoredStudy, track: Track, failures: list[str], written: list[str]) -> str:
    """Sync one study; returns its state, as `sync` does.

    Args:
        failures: gets a line for each update that the tracker refused, so that the other studies are synced anyway.
        written: gets what was written, such as "2 runs made".
    """
    name = study.study_name
    try:
        with studies.lease(name, "sync"):
            settle(study, studies.own_folder(name), studies.place)
            trackers = [_write(studies, study, track())]
            if (seeds := studies.retrained(name)) is not None:  # the seeds' run is nested under the study's run
                settle(seeds, studies.own_folder(seeds.study_name), studies.place, main=study)
                trackers.append(_write(studies, seeds, track()))
            runs = [tracker.counts for tracker in trackers if tracker is not None]
            pages = _missing_pages(studies, study, track())
            trackers.append(_write_pages(study, track, pages))
    except StudyBusyError:
        return "running"
    except StorageError as error:
        failures.append(f"study {name!r}: {error}")
        return "not written"
    used = [tracker for tracker in trackers if tracker is not None]
    refused = [tracker.problem or "it took too long" for tracker in used if not tracker.in_sync]
    failures += [f"study {name!r}: {why}" for why in dict.fromkeys(refused)]
    if refused:
        return "not written"
    made, updated = sum(made for made, _ in runs), sum(updated for _, updated in runs)
    written += [f"{n} run{'s' * (n > 1)} {what}" for n, what in ((made, "made"), (updated, "updated")) if n]
    written += [page.name for page in pages]
    return "written" if used else "in sync"


def _write(studies: Studies, study: StoredStudy, tracker: Tracker) -> Tracker | None:
    """Write what is missing; returns the tracker, or None if nothing was missing."""
    name = study.study_name
    projection = Projection(study, tracker, studies.own_folder(name))
    total = study.record.total
    total = len(study.records()) if total is None else total
    if projection.is_there(total):
        return None
    projection.open(whole=True)
    projection.close([], total, timeout=PATIENCE, patience=PATIENCE)
    return tracker


def _missing_pages(studies: Studies, study: StoredStudy, tracker: Tracker) -> list[Path]:
    """Comparison pages with a study that the tracker lacks, the oldest first: the run starts at that time."""
    pages = pages_with(studies.url, study.study_name)
    missing = [page for page in pages if not tracker.has_page(study.record.data, page, page.name)]
    return sorted(missing, key=lambda page: page.stat().st_mtime)


def _write_pages(study: StoredStudy, track: Track, pages: Sequence[Path]) -> Tracker | None:
    if not pages:
        return None
    tracker = track()
    for page in pages:
        tracker.store_page(study.record.data, page, page.name)
    tracker.close(timeout=PATIENCE, patience=PATIENCE)
    return tracker
