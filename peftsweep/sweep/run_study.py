"""How is a study run, from its file to its result?

`run` opens the study, `train` starts a worker, and `judge.drive` passes messages between the worker and the study.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peftsweep.config import StudyConfig, load
from peftsweep.data import find_mistakes
from peftsweep.data import load as load_data
from peftsweep.errors import UsageError
from peftsweep.models import load_tokenizer
from peftsweep.progress import Progress, Silent
from peftsweep.safe_text.quoting import quoted
from peftsweep.storage import StoredStudy, Studies, check_apart, guarded
from peftsweep.study import best_rows
from peftsweep.sweep.arguments import check_arguments, check_at_least
from peftsweep.sweep.judge import drive
from peftsweep.sweep.open_study import begun, open_study
from peftsweep.sweep.publishing import redraw
from peftsweep.sweep.study_judge import StudyJudge
from peftsweep.sweep.trial_supply import TrialSupply
from peftsweep.sweep.worker import LocalWorker, PackInfo, StartWorker, Worker, WorkerSpec
from peftsweep.sweep.worker_start import check_base, report_start
from peftsweep.system.signals import stopped_by_signals
from peftsweep.tracking import MlflowRuns, OpenSink, Tracker


@dataclass(frozen=True)
class SweepResult:
    """The result of a run.

    Attributes:
        study: the Optuna study.
        best: its best trial; None if no trial is complete.
        counts: number of trials in each state.
        seconds: by kind of work: "training", "evaluation", "checkpoints", "other", and "source" (what the study itself
            took: to sample, judge, store and track). Empty if nothing was left to train.
        interrupted: the signal that stopped the run, if one did.
    """

    study: StoredStudy
    best: best_rows.Best | None
    counts: dict[str, int]
    seconds: dict[str, float]
    interrupted: int | None = None


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
    start: StartWorker = LocalWorker,
    sink: OpenSink = MlflowRuns,
) -> SweepResult:
    """Run a study, or resume it where it stopped.

    Args:
        study: a name in `sweeps/`, a path to a study file, or a study built in Python.
        trials: total number of trials of the study; by default `search.trials`.
        timeout: seconds after which no new trial starts; running trials finish.
        slots: number of trials to train at once. "auto": as many as fit on the GPU; a few on a CPU.
        overrides: values that replace the study file's, by dotted key, as a mapping or as `key=value`.
        progress: displays what happens while the study runs; by default nothing is displayed.
        start: starts the worker that trains. `SpawnedWorker` trains in a separate process.
        sink: opens the tracker at `tracking_uri`.

    Raises:
        PeftsweepError: with one clear message. Finished trials are kept.
    """
    check_arguments(study, slots, overrides)
    check_apart(storage, tracking_uri)
    opened_sink = sink(tracking_uri)
    if trials is not None:
        check_at_least(1, "trials", trials)
    if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
        raise UsageError(f"timeout: expected seconds, such as 7200, got {quoted(timeout)}")
    display: Progress = Silent() if progress is None else progress
    with stopped_by_signals() as stop, guarded(storage), quiet_bitsandbytes():
        config = study if isinstance(study, StudyConfig) else load(study, overrides, check=find_mistakes)
        studies = Studies(storage, display.warn)
        rows = begun(studies, config.name)
        data = load_data(config.data, load_tokenizer(config.model), note=display.note, warn=display.warn, resumed=rows)
        with studies.lease(config.name):
            opened = open_study(studies, config, data)
            total = config.search.trials if trials is None else trials
            tracker = Tracker(opened_sink, note=display.warn)
            supply = TrialSupply(config, opened, studies, total, timeout)
            judge = StudyJudge(supply, data, tracker, display, stop)
            train(judge, slots, tracking_uri, start)
        best = next(iter(best_rows.best(storage, [config.name])), None)
        return SweepResult(opened, best, judge.counts(), judge.seconds, stop.number)


def train(judge: StudyJudge, slots: int | Literal["auto"], tracking_uri: str, start: StartWorker) -> None:
    """Train what is left of a study, and write to the tracker what earlier processes did not.

    Args:
        start: starts the worker that trains.
    """
    with ExitStack() as leave:
        leave.callback(judge.close)
        leave.enter_context(judge.progress)
        if judge.has_work():
            _train(judge, slots, tracking_uri, start)
        judge.conclude()
        if judge.projection.is_behind and not judge.projection.opened:
            judge.stop.finish_step_first = True
            judge.projection.open()
        if judge.projection.opened and not judge.stop.asked:
            data = judge.study.record.data
            redraw(judge.studies.url, judge.projection.tracker, data, judge.progress.warn)


def _train(judge: StudyJudge, slots: int | Literal["auto"], tracking_uri: str, start: StartWorker) -> None:
    """Start a worker. Then wait for its events, let the study judge them, and answer, until there is no work left."""
    supply = judge.supply
    widest, smallest = supply.candidates("high"), supply.candidates("low")
    spec = WorkerSpec(judge.config, judge.data, widest, smallest, supply.left(), slots)
    worker = start(spec)
    pack: PackInfo | None = None
    try:
        base = worker.load()
        check_base(base, judge)
        pack = worker.build()
        judge.stop.finish_step_first = True  # from now on a signal lets the step and the tracker's runs finish
        report_start(judge, base, pack, tracking_uri)
        drive(worker, judge)
    except BaseException:
        with suppress(Exception):  # it must not hide the first error
            _close(worker, judge, pack)
        raise
    _close(worker, judge, pack)


def _close(worker: Worker, judge: StudyJudge, pack: PackInfo | None) -> None:
    """Close the worker, and record what it used."""
    judge.used(worker.close(), None if pack is None else pack.memory)


@contextmanager
def quiet_bitsandbytes() -> Iterator[None]:
    """Suppress bitsandbytes' message about an inference kernel, which it logs when peft imports it."""
    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
