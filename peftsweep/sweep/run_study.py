"""How is a study run, from its file to its result?

`run_together` opens studies, `train` starts a pool of workers, and `drive_all` passes messages between the two.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from peftsweep.config import StudyConfig, load
from peftsweep.data import Dataset, find_mistakes, is_on_hub
from peftsweep.data import load as load_data
from peftsweep.engine import CHECKPOINT_EVERY
from peftsweep.models import load_tokenizer
from peftsweep.progress import OneOfSeveral, Progress, Silent, Stage
from peftsweep.storage import Patience, StoredStudy, Studies, check_apart, guarded
from peftsweep.study import best_rows, total
from peftsweep.sweep.arguments import check_address, check_arguments, check_at_least, check_distinct, check_seconds
from peftsweep.sweep.driving import drive_all
from peftsweep.sweep.open_study import begun, open_study
from peftsweep.sweep.publishing import redraw
from peftsweep.sweep.recording import recorded
from peftsweep.sweep.study_judge import StudyJudge
from peftsweep.sweep.study_sweep import StudySweep
from peftsweep.sweep.trial_supply import TrialSupply
from peftsweep.system.default_places import STORAGE, TRACKING
from peftsweep.system.garbage import existing_objects_kept
from peftsweep.system.signals import StopSignal, stopped_by_signals
from peftsweep.system.worker_places import SHORTEST
from peftsweep.tracking import MlflowRuns, OpenSink, Sink, Tracker
from peftsweep.workers import HANG, LocalWorker, Pool, StartWorker, start_pool

StartPool = Callable[[], Pool]


@dataclass(frozen=True)
class SweepResult:
    """The result of a run.

    Attributes:
        study: the Optuna study.
        best: its best trial; None if no trial is complete.
        counts: number of trials in each state.
        seconds: by kind of work: "training", "evaluation", "checkpoints", "other", and "source" (what the study itself
            took: to sample, judge, store and track), of all workers together. Empty if nothing was left to train.
        trained: how old the process was, in seconds, whenever a worker began to train it, or ended.
        worker_numbers: of the workers that trained it. Studies that run together share their workers.
        interrupted: the signal that stopped the run, if one did.
    """

    study: StoredStudy
    best: best_rows.Best | None
    counts: dict[str, int]
    seconds: dict[str, float]
    worker_numbers: frozenset[int] = frozenset()
    interrupted: int | None = None
    trained: tuple[float, ...] = ()

    @property
    def workers(self) -> int:
        """Number of workers that trained it."""
        return len(self.worker_numbers)


def run(
    study: str | Path | StudyConfig,
    *,
    trials: int | None = None,
    timeout: float | None = None,
    slots: int | Literal["auto"] = "auto",
    overrides: Mapping[str, Any] | Sequence[str] = (),
    storage: str = STORAGE,
    tracking_uri: str = TRACKING,
    progress: Progress | None = None,
    workers: int | Literal["auto"] = 1,
    ray_address: str | None = None,
    worker_timeout: float = HANG,
    checkpoint_every: float = CHECKPOINT_EVERY,
    start: StartWorker = LocalWorker,
    sink: OpenSink = MlflowRuns,
) -> SweepResult:
    """Run a study, or resume it where it stopped.

    Args:
        study: a name in `sweeps/`, a path to a study file, or a study built in Python.
        trials: total number of trials of the study; by default `search.trials`.
        timeout: seconds after which no new trial of the study starts; running trials finish. They count from when its
            first worker begins to load the base.
        slots: number of trials that a worker trains at once. "auto": as many as fit on the GPU; a few on a CPU.
        overrides: values that replace the study file's, by dotted key, as a mapping or as `key=value`.
        progress: displays what happens while the study runs; by default nothing is displayed.
        workers: how many train at once, each on a GPU of its own or a share of the cores. "auto": one for each GPU.
            Several workers need Ray.
        ray_address: `auto`, `HOST:PORT` or `ray://…` joins a Ray cluster.
        checkpoint_every: seconds between two checkpoints of a trial. A kill costs at most so much of its training.
        worker_timeout: seconds without an event after which a worker of Ray is ended and replaced.
        start: starts the worker if there is one, and no cluster. `SpawnedWorker` trains in a separate process.
        sink: opens the tracker at `tracking_uri`.

    Raises:
        PeftsweepError: with one clear message. Finished trials are kept.
    """
    (result,) = run_together(
        [study],
        workers=workers,
        ray_address=ray_address,
        worker_timeout=worker_timeout,
        checkpoint_every=checkpoint_every,
        start=start,
        trials=trials,
        timeout=timeout,
        slots=slots,
        overrides=overrides,
        storage=storage,
        tracking_uri=tracking_uri,
        progress=progress,
        sink=sink,
    )
    return result


def run_together(
    studies: Sequence[str | Path | StudyConfig],
    pool: StartPool | None = None,
    *,
    workers: int | Literal["auto"] = 1,
    ray_address: str | None = None,
    worker_timeout: float = HANG,
    checkpoint_every: float = CHECKPOINT_EVERY,
    start: StartWorker = LocalWorker,
    trials: int | None = None,
    timeout: float | None = None,
    slots: int | Literal["auto"] = "auto",
    overrides: Mapping[str, Any] | Sequence[str] = (),
    storage: str = STORAGE,
    tracking_uri: str = TRACKING,
    progress: Progress | None = None,
    sink: OpenSink = MlflowRuns,
    ended: Callable[[SweepResult], object] = lambda result: None,
) -> list[SweepResult]:
    """Run several studies on a pool of workers, which they share: at once, or in their order if there is one worker.

    Args:
        studies: each as in `run`.
        pool: starts the workers; by default as `workers`, `ray_address`, `worker_timeout` and `start` say.
        ended: called in the end with the results of the studies that no error ended.
        others: as in `run`, for each study.

    Raises:
        PeftsweepError: with one clear message. Finished trials are kept. An error in one study ends that study alone.
    """
    for study in studies:
        check_arguments(study, slots, overrides)
    check_apart(storage, tracking_uri)
    sinks = [sink(tracking_uri) for _ in studies]
    if workers != "auto":
        check_at_least(1, "workers", workers, "'auto' or ")
    check_seconds("worker_timeout", worker_timeout, SHORTEST)
    check_seconds("checkpoint_every", checkpoint_every)
    if trials is not None:
        check_at_least(1, "trials", trials)
    if timeout is not None:
        check_seconds("timeout", timeout)
    if ray_address is not None:
        check_address(ray_address)
    display: Progress = Silent() if progress is None else progress
    with ExitStack() as leave:
        stop = leave.enter_context(stopped_by_signals())
        leave.enter_context(guarded(storage))
        leave.enter_context(quiet_bitsandbytes())
        configs = [
            each if isinstance(each, StudyConfig) else load(each, overrides, check=find_mistakes) for each in studies
        ]
        check_distinct(configs)
        own = [display if len(configs) == 1 else OneOfSeveral(display, config.name) for config in configs]
        places = [Studies(storage, display.warn) for _ in configs]
        # all data is read before the first study begins: a mistake in one leaves the others as they were
        data = list(map(_read, configs, places, own))
        patience = Patience(storage, display.warn, lambda: stop.asked)
        judges = [
            leave.enter_context(_judged(config, rows, trials, timeout, place, each, shown, stop, patience))
            for config, rows, place, each, shown in zip(configs, data, places, sinks, own, strict=True)
        ]
        chosen = partial(start_pool, workers, ray_address, worker_timeout, display.note, start)
        results: list[SweepResult] = []

        def keep(judge: StudyJudge) -> None:
            results.append(judge.study.patiently(partial(_result, judge)))
            ended(results[-1])

        train(judges, pool or chosen, slots, tracking_uri, display, checkpoint_every, keep)
        return results


def _read(config: StudyConfig, studies: Studies, display: Progress) -> Dataset:
    rows = begun(studies, config.name)
    display.stage(Stage.DATA if is_on_hub(config.data) else Stage.TEXTS, config.data.name)
    return load_data(config.data, load_tokenizer(config.model), note=display.note, warn=display.warn, resumed=rows)


@contextmanager
def _judged(
    config: StudyConfig,
    data: Dataset,
    trials: int | None,
    timeout: float | None,
    studies: Studies,
    sink: Sink,
    display: Progress,
    stop: StopSignal,
    patience: Patience,
) -> Iterator[StudyJudge]:
    """The judge of a study, which is opened and leased."""
    with studies.lease(config.name):
        (opened,) = studies.hold(open_study(studies, config, data), patience=patience)
        supply = TrialSupply(config, opened, studies, total(config, trials), timeout)
        yield StudyJudge(supply, data, Tracker(sink, note=display.warn), display, stop)


def _result(judge: StudyJudge) -> SweepResult:
    best = next(iter(best_rows.best(judge.studies.url, [judge.config.name])), None)
    return SweepResult(
        judge.studies.load(judge.config.name),
        best,
        judge.counts(),
        dict(judge.seconds),
        frozenset(judge.workers),
        judge.stop.number,
        tuple(judge.trained),
    )


def train(
    judges: Sequence[StudyJudge],
    pool: StartPool,
    slots: int | Literal["auto"],
    tracking_uri: str,
    display: Progress,
    checkpoint_every: float,
    ended: Callable[[StudyJudge], object] = lambda judge: None,
) -> None:
    """Train what is left of some studies, and write to the tracker what earlier processes did not.

    Args:
        ended: called in the end with each study that no error ended.

    Raises:
        PeftsweepError: of the first study that an error ended, after the others are done.
    """
    sweeps = [StudySweep(judge, slots, tracking_uri, checkpoint_every) for judge in judges]
    with display, ExitStack() as leave:
        for sweep in sweeps:
            leave.callback(sweep.attempt, sweep.judge.close)
        busy = [sweep for sweep in sweeps if sweep.judge.has_work()]
        for sweep in busy:
            leave.enter_context(recorded(sweep.judge))
        try:
            if busy:
                _train(pool(), busy)
        finally:
            display.closed()
            display.stage(Stage.RESULTS)
        for sweep in sweeps:
            if sweep.error is None:
                sweep.attempt(partial(_conclude, sweep.judge))
    for sweep in sweeps:
        if sweep.error is None:
            ended(sweep.judge)
    errors = [sweep.error for sweep in sweeps if sweep.error is not None]
    for error in errors[1:]:
        display.warn(str(error))
    if errors:
        raise errors[0]


def _train(crew: Pool, sweeps: Sequence[StudySweep]) -> None:
    try:
        with existing_objects_kept():
            drive_all(crew, sweeps)
    finally:
        crew.shutdown()


def _conclude(judge: StudyJudge) -> None:
    judge.conclude()
    judge.commit()
    if judge.projection.is_behind and not judge.projection.opened:
        judge.stop.finish_step_first = True
        judge.projection.open()
    if judge.projection.opened and not judge.is_stopped:
        where, data = judge.studies.url, judge.study.record.data
        judge.study.patiently(lambda: redraw(where, judge.projection.tracker, data, judge.progress.warn))


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
