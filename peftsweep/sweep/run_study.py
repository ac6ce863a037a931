"""One run of a study, from its file to its result."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peftsweep.config import MAX_TRIALS, StudyConfig, load
from peftsweep.data import load as load_data
from peftsweep.data import mistakes
from peftsweep.errors import UsageError
from peftsweep.models import load_tokenizer
from peftsweep.progress import Progress, Silent
from peftsweep.safe_text.quoting import quoted
from peftsweep.storage import StoredStudy, Studies, check_apart, guarded
from peftsweep.study import results
from peftsweep.sweep.open_study import begun, open_study
from peftsweep.sweep.study_judge import StudySource
from peftsweep.sweep.training import Start, train
from peftsweep.sweep.worker import LocalWorker
from peftsweep.system.signals import stopped_by_signals
from peftsweep.tracking import Tracker, check_address


@dataclass(frozen=True)
class SweepResult:
    """What a run left behind: the Optuna study, its best trial, and how many trials ended how."""

    study: StoredStudy
    best: results.Best | None
    counts: dict[str, int]
    seconds: dict[str, float]  # where the time went: training, evaluation, checkpoints, source (everything else)
    interrupted: int | None = None  # the signal that stopped it


def run(
    study: str | Path | StudyConfig,
    *,
    trials: int | None = None,
    timeout: float | None = None,
    slots: int | Literal["auto"] = "auto",
    overrides: Mapping[str, Any] | Sequence[str] = (),
    storage: str = "sqlite:///studies.db",
    tracking_uri: str = "sqlite:///mlflow.db",
    progress: Progress | None = None,
    start: Start = LocalWorker,
) -> SweepResult:
    """Run a study, or go on with it where it stopped.

    Args:
        study: a name in `sweeps/`, a path to a study file, or a study built in Python.
        trials: the study's total, in place of `search.trials`.
        timeout: seconds after which no new trial is asked for; running ones finish.
        slots: trials at once; "auto" measures what the GPU holds, and takes a modest number on a CPU.
        overrides: dotted keys in place of the file's, as a mapping or as `key=value`.
        progress: told what happens while it runs; by default nobody is.
        start: starts the worker that trains; `SpawnedWorker` gives it a process of its own.

    Raises:
        PeftsweepError: one clear message; whatever was finished is kept.
    """
    check(study, slots, overrides, storage, tracking_uri)
    if trials is not None:
        at_least(1, "trials", trials)
    if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
        raise UsageError(f"timeout: expected seconds, such as 7200, got {quoted(timeout)}")
    shown: Progress = Silent() if progress is None else progress
    with stopped_by_signals() as stop, guarded(storage), hushed():
        config = study if isinstance(study, StudyConfig) else load(study, overrides, check=mistakes)
        studies = Studies(storage, shown.warn)
        rows = begun(studies, config.name)
        data = load_data(config.data, load_tokenizer(config.model), note=shown.note, warn=shown.warn, begun=rows)
        with studies.lease(config.name):
            opened = open_study(studies, config, data)
            tracker = Tracker(tracking_uri, note=shown.warn)
            total = config.search.trials if trials is None else trials
            source = StudySource(config, opened, studies, data, tracker, shown, total, timeout, stop)
            train(source, slots, tracking_uri, start)
        best = next(iter(results.best(storage, [config.name])), None)
        return SweepResult(opened, best, source.counts(), source.seconds, stop.number)


def check(
    study: str | Path | StudyConfig,
    slots: object,
    overrides: Mapping[str, Any] | Sequence[str],
    storage: str,
    tracking_uri: str,
) -> None:
    """What the command line's own parser refuses, refused from Python too, before anything is loaded."""
    if isinstance(study, StudyConfig) and overrides:
        raise UsageError("overrides: they go with a study file; put the values into the StudyConfig itself")
    if slots != "auto":
        at_least(1, "slots", slots, "'auto' or ")
    check_address(tracking_uri)
    check_apart(storage, tracking_uri)


def at_least(least: int, name: str, value: object, other: str = "") -> None:
    """Raises:
    UsageError: it is no whole number, a smaller one, or more than a study may have.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name}: expected {other}a whole number of at least {least}, got {quoted(value)}")
    if value > MAX_TRIALS:
        raise UsageError(f"{name}: expected {other}a whole number of at most {MAX_TRIALS:,}, got {quoted(value)}")


@contextmanager
def hushed() -> Iterator[None]:
    """Without what bitsandbytes says of a kernel for inference when peft imports it."""
    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
