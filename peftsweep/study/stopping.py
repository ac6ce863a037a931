"""How does `peftsweep stop` end a sweep, or one of its trials? It leaves a request in the database, and waits."""

from __future__ import annotations

import os
import socket
import time

from peftsweep.errors import StorageError, UsageError
from peftsweep.storage import RETRAINED, StopRequest, StoredStudy, Studies, SweepRecord, guarded
from peftsweep.study import results
from peftsweep.study.results import Warn, unheard
from peftsweep.study.status_rows import sweep_state
from peftsweep.sweep_state import SweepState
from peftsweep.system.default_places import STORAGE
from peftsweep.trial_state import TrialState, ending

LOOK = 0.5  # seconds between two looks at what has become of the request


def stop(
    study: str,
    trial: int | None = None,
    storage: str = STORAGE,
    *,
    timeout: float = 300.0,
    warn: Warn = unheard,
) -> str:
    """End the sweep that runs a study, or its retraining, as a first Ctrl-C does; or end one trial of a sweep as
    pruned. Returns a line about what happened.

    Args:
        trial: number of the trial; None for the whole sweep.
        storage: of the study.
        timeout: seconds to wait. The request stays: the sweep obeys it when its step ends.

    Raises:
        UsageError: there is no such study or trial, the study is not running, or the trial has ended or not begun.
        StorageError: the storage does not answer, or the sweep does not obey in time.
    """
    with guarded(storage):
        studies, (found,) = results.opened(storage, [study], warn)
        running, sweep = _running(studies, found)
        if trial is not None:
            _check_trial(running, found, trial)
        request = StopRequest(token=sweep.token, trial=trial, by=f"process {os.getpid()} on {socket.gethostname()}")
        running.ask_to_stop(request)
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            time.sleep(LOOK)
            if (line := _outcome(studies, running.study_name, sweep, trial)) is not None:
                return line
        what = _called(running) if trial is None else f"trial {trial} of {_called(running)}"
        raise StorageError(
            f"{what} has not ended within {timeout:.0f} seconds. The request stays: {sweep.process} obeys it after its "
            "step; see peftsweep status"
        )


def _running(studies: Studies, study: StoredStudy) -> tuple[StoredStudy, SweepRecord]:
    """The study, or that of its seeds, whichever runs; and the sweep's record.

    Raises:
        UsageError: none of the two runs, or not yet.
    """
    both = [each for each in (study, studies.retrained(study.study_name)) if each is not None]
    for each in both:
        if sweep_state(studies, each) == SweepState.RUNNING:
            sweep = each.record.sweep
            if sweep is None or sweep.state != SweepState.RUNNING:
                raise UsageError(
                    f"{_called(each)} is being opened, or an earlier version runs it; try again in a moment"
                )
            return each, sweep
    last = max(both, key=lambda each: 0 if each.record.sweep is None else each.record.sweep.began)
    sweep = last.record.sweep
    why = {
        SweepState.DONE: "it is done",
        SweepState.STOPPED: "it was stopped",
        SweepState.FAILED: "an error ended it",
        SweepState.DIED: f"{'' if sweep is None else sweep.process} died without saying that it ended",
    }.get(sweep_state(studies, last) or SweepState.RUNNING, "no process has it")
    raise UsageError(f"{_called(last)} is not running: {why}")


def _called(study: StoredStudy) -> str:
    """What people call it: seeds have a study of their own, which no command takes."""
    main = study.study_name.removesuffix(RETRAINED)
    return f"study {main!r}" if main == study.study_name else f"the retraining of study {main!r}"


def _check_trial(running: StoredStudy, study: StoredStudy, number: int) -> None:
    """
    Raises:
        UsageError: the trial cannot be stopped.
    """
    if running is not study:
        raise UsageError(
            f"study {study.study_name!r} is being retrained, and single seeds cannot be stopped; without --trial, the "
            "whole retraining stops"
        )
    trial = next((each for each in study.records() if each.number == number), None)
    if trial is None and number < (study.record.total or 0):
        raise UsageError(f"study {study.study_name!r}: trial {number} has not started yet")
    if trial is None:
        raise UsageError(f"study {study.study_name!r} has no trial {number}")
    if trial.state.finished:
        raise UsageError(f"trial {number} of study {study.study_name!r} has ended: {trial.state}")
    if trial.state == TrialState.WAITING:
        raise UsageError(f"trial {number} of study {study.study_name!r} was enqueued and has not begun")


def _outcome(studies: Studies, name: str, asked: SweepRecord, number: int | None) -> str | None:
    """A line about what has become of the request; None while the sweep goes on."""
    study = studies.load(name)
    sweep = study.record.sweep
    if number is not None:
        trial = next((each for each in study.records() if each.number == number), None)
        if trial is not None and trial.state.finished:
            return f"trial {number} of study {name!r}: {ending(trial.state, trial.reason)}"
    if sweep is None or sweep.token != asked.token:
        return f"{_called(study)} has ended, and another sweep of it has begun"
    state = sweep_state(studies, study)
    if state == SweepState.RUNNING:
        return None
    resume = "" if state == SweepState.DONE else f"; to resume: {results.resuming(study)}"
    return f"{_called(study)}: {state}{resume}"
