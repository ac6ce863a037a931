"""One run of a study, from its file to its result."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import optuna
import torch

from peftsweep import report
from peftsweep.config import StudyConfig, differences, load
from peftsweep.data import Dataset
from peftsweep.data import load as load_data
from peftsweep.engine import Limits, Pack, Plan, build_that_fits, capped, plan
from peftsweep.errors import ModelError, StudyMismatchError, UsageError
from peftsweep.methods import METHODS
from peftsweep.models import (
    Base,
    default_device,
    linear_names,
    load_base,
    load_tokenizer,
    longest_text,
    revision_of,
)
from peftsweep.progress import Memory, Opened, Progress, Silent
from peftsweep.search import candidates
from peftsweep.stopping import stopped_by_signals
from peftsweep.storage import Studies, check_apart, guarded, masked
from peftsweep.sweep.source import StudySource
from peftsweep.tracking import Tracker

WORTH_COMPILING = 5_000_000  # tokens to train on, below which half a minute of compiling is not won back
MANY = 10  # trials, beyond which TPE would not draw all of them at random anyway
CPU_SLOTS = 8  # enough for a CPU's cores; what every step costs is shared by eight


@dataclass(frozen=True)
class SweepResult:
    """What a run left behind: the Optuna study, its best trial, and how many trials ended how."""

    study: optuna.Study
    best: report.Best | None
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
) -> SweepResult:
    """Run a study, or go on with it where it stopped.

    Args:
        study: a name in `sweeps/`, a path to a study file, or a study built in Python.
        trials: the study's total, in place of `search.trials`.
        timeout: seconds after which no new trial is asked for; running ones finish.
        slots: trials at once; "auto" measures what the GPU holds, and takes a modest number on a CPU.
        overrides: dotted keys in place of the file's, as a mapping or as `key=value`.
        progress: told what happens while it runs; by default nobody is.

    Raises:
        PeftsweepError: one clear message; whatever was finished is kept.
    """
    _check(study, trials, timeout, slots, overrides, storage, tracking_uri)
    shown: Progress = Silent() if progress is None else progress
    with stopped_by_signals() as stop, guarded(storage), _hushed():
        config = study if isinstance(study, StudyConfig) else load(study, overrides)
        studies = Studies(storage)
        with ExitStack() as leave:
            tokenizer = load_tokenizer(config.model)
            data = load_data(config.data, tokenizer, note=shown.note, warn=shown.warn)
            leave.enter_context(studies.lease(config.name))
            opened = open_study(studies, config, data)
            tracker = Tracker(tracking_uri, note=shown.warn)
            total = config.search.trials if trials is None else trials
            source = StudySource(config, opened, studies, data, tracker, shown, total, timeout, stop)
            leave.callback(source.close)
            leave.enter_context(shown)
            if source.has_work():
                leave.enter_context(capped(default_device()))
                _train(source, slots, masked(storage), masked(tracking_uri))
            elif source.projection.is_behind:
                stop.patient = True
                source.projection.open()
        best = next(iter(report.best(storage, [config.name])), None)
        return SweepResult(opened, best, source.counts(), source.seconds, stop.number)


def _check(
    study: str | Path | StudyConfig,
    trials: object,
    timeout: object,
    slots: object,
    overrides: Mapping[str, Any] | Sequence[str],
    storage: str,
    tracking_uri: str,
) -> None:
    """What the command line's own parser refuses, refused from Python too, before anything is loaded."""
    if isinstance(study, StudyConfig) and overrides:
        raise UsageError("overrides: they go with a study file; put the values into the StudyConfig itself")
    if trials is not None and not _at_least_one(trials):
        raise UsageError(f"trials: expected a whole number of at least 1, got {trials!r}")
    if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
        raise UsageError(f"timeout: expected seconds, such as 7200, got {timeout!r}")
    if slots != "auto" and not _at_least_one(slots):
        raise UsageError(f"slots: expected 'auto' or a whole number of at least 1, got {slots!r}")
    check_apart(storage, tracking_uri)


def _at_least_one(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what bitsandbytes says of a kernel for inference when peft imports it, and MLflow of a new database."""
    loggers = [logging.getLogger(name) for name in ("bitsandbytes", "mlflow")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def open_study(studies: Studies, config: StudyConfig, data: Dataset) -> optuna.Study:
    """The study in the storage, made if it is new.

    Raises:
        StudyMismatchError: one of that name is there with another space or other data.
    """
    study = studies.create(config.name)
    attrs = study.user_attrs
    if "config" not in attrs or not study.get_trials(deepcopy=False):  # a study without trials may still be corrected
        described: dict[str, Any] = {
            "fingerprint": data.fingerprint,
            "splits": splits(data),
            "key": uuid4().hex,  # tells it from a study of the same name in another storage
            "experiment": _experiment(studies, config, data),
            "metric": config.search.objective,
            "labels": list(data.task.labels),
            "config": config.identity(),  # last: whoever finds it finds the rest
        }
        for key, value in described.items():
            study.set_user_attr(key, value)
        return study
    lines = differences(attrs["config"], config.identity())
    if attrs["metric"] != config.search.objective:
        lines.append(f"search.objective: {attrs['metric']} in the storage, {config.search.objective} now")
    if attrs["fingerprint"] == data.fingerprint:  # the same rows, wherever they lie and however written
        where = ("source", "train", "validation", "test", "subset", "revision", "encoding", "quoting")
        lines = [line for line in lines if not line.startswith(tuple(f"data.{key}:" for key in where))]
    else:
        lines.append(f"the data's rows: fingerprint {attrs['fingerprint']} in the storage, {data.fingerprint} now")
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise StudyMismatchError(
            f"study {config.name!r} exists in {masked(studies.url)} and is another one:\n{listed}\n"
            "To go on with it, restore these in the study file; to begin anew, save the study file under another name "
            "or use another --storage"
        )
    study.set_user_attr("config", config.identity())  # a widened range is kept
    return study


def _experiment(studies: Studies, config: StudyConfig, data: Dataset) -> str:
    """A name that a person reads. Studies of the same rows share one, wherever the rows lie; no others do."""
    for name in studies.names():
        known = studies.load(name).user_attrs
        if known.get("fingerprint") == data.fingerprint and "experiment" in known:
            return str(known["experiment"])
    return f"{config.data.name} · {data.task.kind} · {data.fingerprint[:6]}"


def splits(data: Dataset) -> dict[str, int]:
    """Rows of each split."""
    sizes = {"train": len(data.train), "validation": len(data.validation)}
    return sizes if data.test is None else sizes | {"test": len(data.test)}


def _train(source: StudySource, slots: int | Literal["auto"], storage: str, tracking_uri: str) -> None:
    """Load the base, fill a pack, run it until the source has no more trials."""
    config, data = source.config, source.data
    kind, bounds = METHODS[config.method], candidates(config)
    base = load_base(config.model, data.task, four_bit=kind.four_bit, device=default_device())
    _check_base(base, source)
    method = kind(base.model, linear_names(base.model))

    longest = max(params.epochs for params in bounds) * sum(map(len, data.train.input_ids))  # tokens of a trial
    compiled = source.left() * longest > WORTH_COMPILING

    def build(count: int, limits: Limits | None = None) -> Pack:
        return Pack(
            base.model,
            method,
            data.task,
            data.train,
            data.validation,
            candidates=bounds,
            slots=count,
            limits=limits,
            compiled=compiled,
            objective=config.search.objective,
            note=source.progress.note,
        )

    planned = plan(build, bounds, source.left()) if base.device.type == "cuda" else None
    count = slots if slots != "auto" else CPU_SLOTS if planned is None else planned.slots
    if planned is not None and planned.of(count).slots < count:
        count = planned.of(count).slots
        source.progress.note(f"memory: the GPU has room for {count} slots; the others wait")

    def planned_build(count: int) -> Pack:
        return build(count, None if planned is None else planned.of(count).limits)

    pack = build_that_fits(planned_build, max(1, min(count, source.left())))
    _say_if_uninformed(source, len(pack.slots))
    memory = None if planned is None else _memory(planned.of(len(pack.slots)), base.device)
    trained = [pack.parameters(params) for params in bounds]
    source.stop.patient = True  # from here on there is something to finish: MLflow's runs, a step
    source.opened(
        base,
        method,
        Opened(
            study=config.name,
            model=config.model.id,
            method=config.method,
            parameters=base.parameters,
            trainable=(min(trained), max(trained)),
            slots=len(pack.slots),
            rows=splits(data),
            device=str(base.device),
            dtype="nf4" if base.four_bit else str(base.dtype).removeprefix("torch."),
            done=source.done(),
            total=source.total,
            storage=storage,
            tracking=tracking_uri,
            objective=config.search.objective,
            memory=memory,
        ),
    )
    if memory is not None:
        torch.cuda.reset_peak_memory_stats(base.device)
    try:
        pack.run(source)
        source.score_test(pack)
    finally:
        source.seconds = dict(pack.clock.seconds)
        pack.release()
        if memory is not None:
            torch.compiler.reset()  # the same code is compiled for so many packs of a process, and then no more
            source.took(memory, torch.cuda.max_memory_reserved(base.device))


def _say_if_uninformed(source: StudySource, slots: int) -> None:
    """TPE learns from results, and trials that begin together have none."""
    left = source.left()
    if source.config.search.sampler == "tpe" and not source.done() and slots >= left > MANY:
        source.progress.note(
            f"search: all {left} trials begin at once, so none is drawn by the results of others (as with sampler: "
            f"random); with --slots {left // 4}, say, or more trials, later ones are"
        )


def _memory(planned: Plan, device: torch.device) -> Memory:
    _, whole = torch.cuda.mem_get_info(device)
    return Memory(planned.bytes, whole, planned.slots, planned.tokens)


def _check_base(base: Base, source: StudySource) -> None:
    """Whether the base can be trained with this data, and is the one that the study's trials had."""
    config, study = source.config, source.study
    if not linear_names(base.model):
        raise ModelError(f"model.id: {config.model.id} has no linear layers in its backbone to adapt: not supported")
    longest = longest_text(base.model)
    if longest is not None and config.data.max_length > longest:
        raise ModelError(
            f"data.max_length: {config.data.max_length} is above the {longest} positions of {config.model.id}; "
            f"set it to {longest} or less"
        )
    revision, known = revision_of(base), study.user_attrs.get("base")
    if known not in (None, revision) and study.get_trials(deepcopy=False):
        raise StudyMismatchError(
            f"study {config.name!r}: its trials were trained on revision {known} of {config.model.id}, which is now at "
            f"{revision}. To go on, give the old one (model.revision); to begin anew, save the study under another name"
        )
    study.set_user_attr("base", revision)
