"""How `retrain` works: a study's best configurations are trained with fresh seeds, to see how good they really are.

A study's best score is the highest of many, and therefore too high. The seeds are trials of a second Optuna study,
`NAME/retrain`, so the search does not learn from them. They stop and resume like all trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from peftsweep.config import StudyConfig, load
from peftsweep.data import Dataset, find_mistakes
from peftsweep.data import load as load_data
from peftsweep.engine import CHECKPOINT_EVERY
from peftsweep.errors import StudyMismatchError
from peftsweep.models import load_tokenizer
from peftsweep.progress import Progress, Silent
from peftsweep.storage import (
    RETRAINED,
    HeldOutScores,
    Patience,
    Retrained,
    StoredStudy,
    Studies,
    TrialRecord,
    check_apart,
    guarded,
    masked,
    settle,
    write_study,
)
from peftsweep.study import results
from peftsweep.study.results import done, none_complete, ranked
from peftsweep.study.seeds import summarised
from peftsweep.sweep.arguments import check_arguments, check_at_least, check_seconds
from peftsweep.sweep.open_study import check_same, open_study
from peftsweep.sweep.run_study import quiet_bitsandbytes, train
from peftsweep.sweep.seed_judge import SeedJudge, has_all_trials
from peftsweep.sweep.seed_supply import SeedSupply
from peftsweep.system.default_places import STORAGE, TRACKING
from peftsweep.system.signals import stopped_by_signals
from peftsweep.tracking import MlflowRuns, OpenSink, Tracker
from peftsweep.workers import LocalPool, LocalWorker, StartWorker


@dataclass(frozen=True)
class RetrainResult:
    """The result: each configuration over its seeds, the best mean first (see `seeds.summarised`)."""

    configurations: list[Retrained]
    seconds: dict[str, float]  # where the time went; empty if nothing was left to train
    interrupted: int | None = None  # the signal that stopped it
    trained: tuple[float, ...] = ()  # see `SweepResult`
    worker_numbers: frozenset[int] = frozenset({0})  # it has one worker

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The configurations as plain values, as `--json` prints them."""
        return [configuration.as_dict() for configuration in self.configurations]


def retrain(
    study: str | Path | StudyConfig,
    *,
    seeds: int = 5,
    top: int = 3,
    slots: int | Literal["auto"] = "auto",
    overrides: Mapping[str, Any] | Sequence[str] = (),
    storage: str = STORAGE,
    tracking_uri: str = TRACKING,
    progress: Progress | None = None,
    start: StartWorker = LocalWorker,
    checkpoint_every: float = CHECKPOINT_EVERY,
    sink: OpenSink = MlflowRuns,
) -> RetrainResult:
    """Train the best configurations of a study with several seeds each, or resume that.

    A seed decides first weights, order of batches and dropout. The study's own trials do not count, because they were
    chosen by their scores. All configurations get the same seeds, in every call, so seeds that exist are not trained
    again. Nothing is pruned; a seed's score is that of its best evaluation, as in the sweep. Once the study is done,
    the configuration with the best mean is scored on the test split, once and never again.

    Args:
        study: a name in `sweeps/`, a path to a study file, or a study built in Python; it has been run before.
        seeds: number for each configuration, including earlier calls.
        top: number of configurations: the best of the study.
        slots, overrides, storage, tracking_uri, progress, start, checkpoint_every, sink: as in `run`.

    Raises:
        PeftsweepError: with one clear message. Finished seeds are kept.
    """
    check_arguments(study, slots, overrides)
    check_apart(storage, tracking_uri)
    opened_sink = sink(tracking_uri)
    check_at_least(2, "seeds", seeds)
    check_at_least(1, "top", top)
    check_seconds("checkpoint_every", checkpoint_every)
    shown: Progress = Silent() if progress is None else progress
    with stopped_by_signals() as stop, guarded(storage), quiet_bitsandbytes():
        config = study if isinstance(study, StudyConfig) else load(study, overrides, check=find_mistakes)
        studies, (found,) = results.opened(storage, [config.name], shown.warn)
        _best(found, top)  # raises an error before anything is loaded
        rows = found.record.fingerprint
        data = load_data(config.data, load_tokenizer(config.model), note=shown.note, warn=shown.warn, resumed=rows)
        with studies.lease(config.name, "retrain"):
            check_same(studies, found, config, data)
            settle(found, studies.own_folder(config.name), studies.place)
            best = _best(found, top)
            patience = Patience(storage, shown.warn, lambda: stop.asked)
            found, again = studies.hold(found, _companion(studies, found, config, data), patience=patience)
            tracker = Tracker(opened_sink, note=shown.warn)
            supply = SeedSupply(config, found, again, best, seeds, studies)
            judge = SeedJudge(supply, data, tracker, shown, stop)
            _say(shown, found, best, top, seeds)
            train([judge], partial(LocalPool, start), slots, tracking_uri, shown, checkpoint_every)
            return RetrainResult(summarised(found, again), dict(judge.seconds), stop.number, tuple(judge.trained))


def _best(study: StoredStudy, top: int) -> list[TrialRecord]:
    """The `top` best trials. Of trials with the same hyperparameters, only the best counts.

    Raises:
        UsageError: no trial is complete.
    """
    best: list[TrialRecord] = []
    for trial in ranked(study.records()):
        if len(best) < top and all(trial.drawn != other.drawn for other in best):
            best.append(trial)
    if not best:
        raise none_complete(study)
    return best


def _say(shown: Progress, study: StoredStudy, best: Sequence[TrialRecord], top: int, seeds: int) -> None:
    name = study.study_name
    numbers = f"trial{'s' * (len(best) > 1)} {', '.join(str(trial.number) for trial in best)}"
    fewer = " (no other configuration of its trials is complete)" if len(best) < top else ""
    shown.note(f"retrain: {seeds} fresh seeds for each of the best of {name!r}: {numbers}{fewer}")
    if not has_all_trials(study):
        ended = done(study.records())
        shown.note(
            f"retrain: {name!r} is not done ({ended} of {study.record.total} trials): its best may change, and "
            f"the test split is not scored before; go on with: {results.resuming(study)}"
        )


def _companion(studies: Studies, study: StoredStudy, config: StudyConfig, data: Dataset) -> StoredStudy:
    """The study of the seeds, created if it is new.

    Raises:
        StudyMismatchError: its seeds belong to an earlier study with the same name, which is gone.
    """
    again = open_study(studies, config.model_copy(update={"name": config.name + RETRAINED}), data, main=study)
    main, key = study.record, study.record.key
    if not again.has_trials():
        write_study(again, base=main.base)  # the seeds must be trained on the same base
        write_study(again, retrain_of=key)
        for row in main.retrained or ():
            if row.test:  # the seeds that were scored are gone: the study was moved without them
                scores = {name: score for name, score in row.test.items() if name != "seeds"}
                tested = {"trial": row.trial, "seeds": row.test["seeds"], "scores": scores}
                write_study(again, test=HeldOutScores.model_validate(tested))
    if again.record.retrain_of != key:
        raise StudyMismatchError(
            f"study {again.study_name!r} in {masked(studies.url)} has seeds of an earlier study {config.name!r}, which "
            f"is gone; delete it too: optuna delete-study --storage … --study-name {again.study_name}"
        )
    return again
