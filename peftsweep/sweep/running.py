"""One run of a study, from its file to its result."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal
from uuid import uuid4

import optuna

from peftsweep import report
from peftsweep.config import StudyConfig, differences, load
from peftsweep.data import Dataset
from peftsweep.data import load as load_data
from peftsweep.engine import Pack, build_that_fits, slots_that_fit
from peftsweep.errors import ModelError, StudyMismatchError
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
from peftsweep.progress import Opened, Progress, Silent
from peftsweep.search import candidates
from peftsweep.storage import Studies, guarded, masked
from peftsweep.sweep.source import StudySource
from peftsweep.tracking import Tracker

CPU_SLOTS = 8  # one trial keeps a CPU busy already; eight share what every step costs


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
    config = study if isinstance(study, StudyConfig) else load(study, overrides)
    shown: Progress = Silent() if progress is None else progress
    with guarded(storage), ExitStack() as leave:
        studies = Studies(storage)
        tokenizer = load_tokenizer(config.model)
        data = load_data(config.data, tokenizer, note=shown.note, warn=shown.warn)
        leave.enter_context(studies.lease(config.name))
        opened = open_study(studies, config, data)
        tracker = Tracker(tracking_uri, note=shown.warn)
        total = config.search.trials if trials is None else trials
        source = StudySource(config, opened, studies, data, tracker, shown, total, timeout)
        leave.callback(source.close)
        leave.enter_context(shown)
        leave.enter_context(_signals(source))
        if source.has_work():
            _train(source, slots, masked(storage), masked(tracking_uri))
        elif source.tracker_is_behind:
            source.open_runs()
        best = next(iter(report.best(storage, [config.name])), None)
        return SweepResult(opened, best, source.counts(), source.seconds, source.stopped_by)


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
            "experiment": f"{config.data.name} · {data.task.kind}",
            "metric": "macro_f1",
            "labels": list(data.task.labels),
            "config": config.identity(),  # last: whoever finds it finds the rest
        }
        for key, value in described.items():
            study.set_user_attr(key, value)
        return study
    lines = differences(attrs["config"], config.identity())
    if attrs["fingerprint"] == data.fingerprint:  # the same rows, wherever they lie
        where = ("source", "train", "validation", "test", "subset", "revision")
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

    def build(count: int) -> Pack:
        return Pack(base.model, method, data.task, data.train, data.validation, candidates=bounds, slots=count)

    count = slots
    if count == "auto":
        count = CPU_SLOTS if base.device.type == "cpu" else slots_that_fit(build, data.train, bounds)
    pack = build_that_fits(build, max(1, min(count, source.left())))
    trained = [pack.parameters(params) for params in bounds]
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
        ),
    )
    try:
        pack.run(source)
        source.score_test(pack)
    finally:
        source.seconds = dict(pack.clock.seconds)
        pack.release()


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


@contextmanager
def _signals(source: StudySource) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP stop the sweep after the step under way; a second one stops it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if source.stopped_by is not None:
            raise KeyboardInterrupt
        source.stopped_by = number

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
