"""A source's trials trained: a worker started, its questions answered, MLflow brought level."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal

from peftsweep.engine import drive
from peftsweep.errors import StudyMismatchError
from peftsweep.models import BaseInfo, is_at, revision_of
from peftsweep.progress import Opened
from peftsweep.storage import masked
from peftsweep.sweep.open_study import splits
from peftsweep.sweep.publishing import refresh
from peftsweep.sweep.study_judge import StudySource
from peftsweep.sweep.worker import LocalWorker, Ready, Work, Worker

MANY = 10  # trials, beyond which TPE would not draw all of them at random anyway


Start = Callable[[Work], Worker]


def train(source: StudySource, slots: int | Literal["auto"], tracking_uri: str, start: Start = LocalWorker) -> None:
    """Train what the source has left, and tell MLflow what an earlier process did not.

    Args:
        start: starts the worker that trains.
    """
    with ExitStack() as leave:
        leave.callback(source.close)
        leave.enter_context(source.progress)
        if source.has_work():
            _train(source, start, slots, masked(source.studies.url), masked(tracking_uri))
        source.conclude()
        if source.projection.is_behind and not source.projection.opened:
            source.stop.finish_step_first = True
            source.projection.open()
        if source.projection.opened and not source.stop.asked:
            experiment = source.study.record.experiment
            refresh(source.studies.url, source.projection.tracker, experiment, source.progress.warn)


def _train(source: StudySource, start: Start, slots: int | Literal["auto"], storage: str, tracking_uri: str) -> None:
    """Start a worker, and answer it until there is nothing left to train or to score."""
    config, smallest = source.config, source.bounds("low")
    worker = start(Work(config, source.data, source.bounds(), smallest, source.left(), slots))
    ready: Ready | None = None
    try:
        base = worker.load()
        _check_base(base, source)
        ready = worker.build()
        for note in ready.notes:
            source.progress.note(note)
        _say_if_uninformed(source, ready.slots)
        source.stop.finish_step_first = True  # from here on there is something to finish: MLflow's runs, a step
        source.opened(base, ready.method, _summary(source, base, ready, storage, tracking_uri))
        drive(worker, source)
    finally:
        usage = worker.close()
        source.seconds = usage.seconds
        if ready is not None and ready.memory is not None and usage.peak_bytes is not None:
            source.took(ready.memory, usage.peak_bytes)


def _summary(source: StudySource, base: BaseInfo, ready: Ready, storage: str, tracking_uri: str) -> Opened:
    config = source.config
    return Opened(
        study=config.name,
        model=config.model.id,
        method=config.method,
        parameters=base.parameters,
        trainable=ready.trainable,
        slots=ready.slots,
        rows=splits(source.data),
        device=str(base.device),
        dtype="nf4" if base.four_bit else str(base.dtype).removeprefix("torch."),
        done=source.done(),
        total=source.total,
        storage=storage,
        tracking=tracking_uri,
        objective=config.search.objective,
        memory=ready.memory,
    )


def _say_if_uninformed(source: StudySource, slots: int) -> None:
    """TPE learns from results, and trials that begin together have none."""
    left = source.left()
    if source.config.search.sampler == "tpe" and not source.done() and slots >= left > MANY:
        source.progress.note(
            f"search: all {left} trials begin at once, so none is drawn by the results of others (as with sampler: "
            f"random); with --slots {left // 4}, say, or more trials, later ones are"
        )


def _check_base(base: BaseInfo, source: StudySource) -> None:
    """Whether the base is the one that the study's trials had."""
    config, study = source.config, source.study
    revision, known = revision_of(base), study.record.base
    if known is not None and study.has_trials() and not is_at(base, known):
        way = "put its configuration, tokenizer and weights back" if base.revision is None else "set model.revision"
        raise StudyMismatchError(
            f"study {config.name!r}: its trials were trained on {config.model.id} at revision {known}, which is now at "
            f"{revision}. To go on, {way}; to begin anew, save the study under another name"
        )
    study.set_user_attr("base", revision)
