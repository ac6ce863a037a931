"""A source's trials trained: the base loaded, a pack filled, MLflow brought level."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Literal

import torch

from peftsweep.engine import Limits, Pack, Plan, build_that_fits, capped, plan
from peftsweep.errors import StudyMismatchError
from peftsweep.methods import METHODS
from peftsweep.models import (
    Base,
    default_device,
    is_at,
    linear_names,
    load_base,
    revision_of,
)
from peftsweep.progress import Memory, Opened
from peftsweep.storage import masked
from peftsweep.sweep.comparing import refresh
from peftsweep.sweep.fit import check_fit
from peftsweep.sweep.opening import splits
from peftsweep.sweep.source import StudySource

WORTH_COMPILING = 5_000_000  # tokens that a study may train on, above which it compiles: see benchmarks/README.md
MANY = 10  # trials, beyond which TPE would not draw all of them at random anyway
CPU_SLOTS = 8  # enough for a CPU's cores; what every step costs is shared by eight


def train(source: StudySource, slots: int | Literal["auto"], tracking_uri: str) -> None:
    """Train what the source has left, and tell MLflow what an earlier process did not."""
    with ExitStack() as leave:
        leave.callback(source.close)
        leave.enter_context(source.progress)
        if source.has_work():
            leave.enter_context(capped(default_device()))
            _train(source, slots, masked(source.studies.url), masked(tracking_uri))
        source.conclude()
        if source.projection.is_behind and not source.projection.opened:
            source.stop.patient = True
            source.projection.open()
        if source.projection.opened and not source.stop.asked:
            experiment = source.study.record.experiment
            refresh(source.studies.url, source.projection.tracker, experiment, source.progress.warn)


def _train(source: StudySource, slots: int | Literal["auto"], storage: str, tracking_uri: str) -> None:
    """Load the base, fill a pack, run it until the source has no more trials."""
    config, data = source.config, source.data
    kind, bounds = METHODS[config.method], source.bounds()
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
    trained = [pack.parameters(params) for params in (*bounds, *source.bounds("low"))]
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
    check_fit(base, config, source.data)
    revision, known = revision_of(base), study.record.base
    if known is not None and study.has_trials() and not is_at(base, known):
        way = "put its configuration, tokenizer and weights back" if base.revision is None else "set model.revision"
        raise StudyMismatchError(
            f"study {config.name!r}: its trials were trained on {config.model.id} at revision {known}, which is now at "
            f"{revision}. To go on, {way}; to begin anew, save the study under another name"
        )
    study.set_user_attr("base", revision)
