"""The best configurations of a study trained again with fresh seeds: how good they are, and which is the best, surely.

A study's best score is the highest of many, and so too high. Its configurations' seeds are trials of a second Optuna
study, `NAME/retrain`: the search does not learn from them, and they stop and go on as all trials do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna

from peftsweep.config import StudyConfig, TrainConfig, load
from peftsweep.data import Dataset, find_mistakes
from peftsweep.data import load as load_data
from peftsweep.engine import Scores, Trial
from peftsweep.errors import StudyMismatchError
from peftsweep.models import load_tokenizer
from peftsweep.progress import Progress, Silent
from peftsweep.storage import (
    RETRAINED,
    HeldOutScores,
    StoredStudy,
    Studies,
    TrialRecord,
    guarded,
    masked,
    settle,
    write_study,
)
from peftsweep.study import artifacts, results, samplers, space
from peftsweep.study.results import done, is_over, none_complete, ranked
from peftsweep.study.seeds import complete, is_seed, means, seeds_begun, still_wanted, summarised
from peftsweep.study.trial_files import ADAPTER
from peftsweep.sweep import trial_params
from peftsweep.sweep.arguments import check_arguments, check_at_least
from peftsweep.sweep.open_study import check_same, open_study
from peftsweep.sweep.run_study import quiet_bitsandbytes, train
from peftsweep.sweep.study_judge import StudyJudge
from peftsweep.sweep.trial_params import UnfitError
from peftsweep.system.signals import StopSignal, stopped_by_signals
from peftsweep.tracking import Tracker


@dataclass(frozen=True)
class RetrainResult:
    """What came of the configurations: a row for each, the best mean first (see `seeds.summarised`)."""

    rows: list[dict[str, Any]]
    seconds: dict[str, float]  # where the time went; empty when nothing was left to train
    interrupted: int | None = None  # the signal that stopped it


def retrain(
    study: str | Path | StudyConfig,
    *,
    seeds: int = 5,
    top: int = 3,
    slots: int | Literal["auto"] = "auto",
    overrides: Mapping[str, Any] | Sequence[str] = (),
    storage: str = results.STORAGE,
    tracking_uri: str = "sqlite:///mlflow.db",
    progress: Progress | None = None,
) -> RetrainResult:
    """Train the best configurations of a study with several seeds each, or go on with that.

    A seed stands for first weights, order of batches and dropout. The study's own trials do not count: they were picked
    by their scores. Seeds are the same for each configuration and each time: what is there already is not trained
    again. Nothing is pruned; a seed's score is that of its best evaluation, as in the sweep. Of a study that is done,
    the test split is scored once, for the configuration with the best mean, and never again.

    Args:
        study: a name in `sweeps/`, a path to a study file, or a study built in Python; one that has been run.
        seeds: for each configuration in all, those of earlier calls included.
        top: configurations, the best of the study.
        slots, overrides, storage, tracking_uri, progress: as in `run`.

    Raises:
        PeftsweepError: one clear message; whatever was finished is kept.
    """
    check_arguments(study, slots, overrides, storage, tracking_uri)
    check_at_least(2, "seeds", seeds)
    check_at_least(1, "top", top)
    shown: Progress = Silent() if progress is None else progress
    with stopped_by_signals() as stop, guarded(storage), quiet_bitsandbytes():
        config = study if isinstance(study, StudyConfig) else load(study, overrides, check=find_mistakes)
        studies, (found,) = results.opened(storage, [config.name], shown.warn)
        _best(found, top)  # nothing is loaded for a study that has none
        rows = found.record.fingerprint
        data = load_data(config.data, load_tokenizer(config.model), note=shown.note, warn=shown.warn, resumed=rows)
        with studies.lease(config.name, "retrain"):
            check_same(studies, found, config, data)
            settle(found, studies.own_folder(config.name), studies.place)
            best = _best(found, top)
            again = _companion(studies, found, config, data)
            tracker = Tracker(tracking_uri, note=shown.warn)
            source = SeedJudge(config, found, again, best, seeds, studies, data, tracker, shown, stop)
            _say(shown, found, best, top, seeds)
            train(source, slots, tracking_uri)
            return RetrainResult(summarised(found, again), source.seconds, stop.number)


def _best(study: StoredStudy, top: int) -> list[TrialRecord]:
    """The best trials, at most so many; of those with the same hyperparameters, the best one alone.

    Raises:
        UsageError: none is complete.
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
    if not _is_done(study):
        ended = done(study.records())
        shown.note(
            f"retrain: {name!r} is not done ({ended} of {study.record.total} trials): its best may change, and "
            f"the test split is not scored before; go on with: peftsweep run --study {name}"
        )


def _is_done(study: StoredStudy) -> bool:
    """Whether the study has all the trials that it was to have at its last run."""
    return is_over(study.records(), study.record.total or 0)


def _companion(studies: Studies, study: StoredStudy, config: StudyConfig, data: Dataset) -> StoredStudy:
    """The study of the seeds, made if it is new.

    Raises:
        StudyMismatchError: its seeds are those of another study, which had the same name and is gone.
    """
    again = open_study(studies, config.model_copy(update={"name": config.name + RETRAINED}), data, main=study)
    main, key = study.record, study.record.key
    if not again.has_trials():
        write_study(again, base=main.base)  # the seeds are to be trained on that one too
        write_study(again, retrain_of=key)
        for row in main.retrained or ():
            if row["test"]:  # scored by seeds that are gone, as when a database was moved without them
                scores = {name: score for name, score in row["test"].items() if name != "seeds"}
                write_study(again, test=HeldOutScores(trial=row["trial"], seeds=row["test"]["seeds"], scores=scores))
    if again.record.retrain_of != key:
        raise StudyMismatchError(
            f"study {again.study_name!r} in {masked(studies.url)} has seeds of an earlier study {config.name!r}, which "
            f"is gone; delete it too: optuna delete-study --storage … --study-name {again.study_name}"
        )
    return again


class SeedJudge(StudyJudge):
    """A source of the seeds that are wanted, and of no other trials; nothing is pruned. A seed is in the study from its
    beginning on: what was wanted once and never begun leaves no trace.

    Args:
        main: the study whose configurations they have.
        again: the study of the seeds.
        best: trials of the former, whose configurations are to have so many `seeds` in all.

    Attributes:
        wanted: the seeds that have not begun, one of each configuration after the other: the configuration, and which
            of its seeds it is. They may be millions.
    """

    def __init__(
        self,
        config: StudyConfig,
        main: StoredStudy,
        again: StoredStudy,
        best: Sequence[TrialRecord],
        seeds: int,
        studies: Studies,
        data: Dataset,
        tracker: Tracker,
        progress: Progress,
        stop: StopSignal,
    ) -> None:
        self.main, self.best = main, best
        begun = {(seed.retrains, seed.replicate) for seed in seeds_begun(again)}
        self.wanted, self.unbegun = still_wanted(best, seeds, begun)
        total = len(begun) + self.unbegun
        fixed = config.search.model_copy(update={"sampler": "random", "pruner": None, "trials": total})
        renamed = config.model_copy(update={"name": again.study_name, "search": fixed})
        super().__init__(renamed, again, studies, data, tracker, progress, total, None, stop)

    def candidates(self, end: Literal["low", "high"] = "high") -> list[TrainConfig]:
        """The configurations themselves."""
        picked = {seed.retrains for seed in seeds_begun(self.study)} | {trial.number for trial in self.best}
        trials = [trial for trial in self.main.records() if trial.number in picked]
        return [trial_params.trained(self.config, trial) for trial in trials]

    def _exhausted(self) -> bool:
        return self.unbegun == 0

    def ask(self) -> optuna.Trial:
        """The next one that is wanted."""
        self.unbegun -= 1
        picked, replicate = next(self.wanted)
        return self.studies.begin(self.study, retrains=picked.number, replicate=replicate)

    def complete(self, asked: optuna.Trial) -> dict[str, Any]:
        """As the trial of the study has them."""
        seed = self.record(asked)
        picked = [trial for trial in self.main.records() if trial.number == seed.retrains and trial.params]
        if not picked or not is_seed(seed):
            raise UnfitError(["it is no seed of a configuration"])
        known = space.described(self.config, trial_params.trained(self.config, picked[0]))
        return trial_params.complete(self.studies, self.config, asked, known)

    def seed(self, asked: optuna.Trial) -> int:
        return samplers.replicate_seed(self.config.train.seed, self.record(asked).replicate or 0)

    def sampled(self, trial: Trial) -> dict[str, Any]:
        own = self.trial(trial.number)
        return {"of trial": own.retrains, "seed": own.replicate, **super().sampled(trial)}

    def winners(self) -> list[TrialRecord]:
        """The seeds of the configuration with the best mean, if the study and its seeds are done."""
        return self.leading() if self.is_done() and _is_done(self.main) else []

    def tested(self, scored: Sequence[tuple[TrialRecord, Scores]]) -> None:
        each = [scores for _, scores in scored]
        first = scored[0][0].retrains
        assert first is not None  # each is a seed
        write_study(self.study, test=HeldOutScores(trial=first, seeds=len(each), scores=means(each)))

    def is_done(self) -> bool:
        return is_over(self.trials(), self.total)

    def leading(self) -> list[TrialRecord]:
        """The complete seeds of the first configuration."""
        rows = summarised(self.main, self.study)
        return self.seeds_of(rows[0]["trial"]) if rows else []

    def seeds_of(self, number: int | None) -> list[TrialRecord]:
        """The complete seeds of a configuration, the study's trial of this number."""
        return complete([seed for seed in seeds_begun(self.study) if seed.retrains == number])

    def conclude(self) -> None:
        """In the study for those who read it, and for MLflow."""
        super().conclude()
        if self.is_done():
            rows = summarised(self.main, self.study)
            figures = {name: rows[0][name] for name in rows[0] if name.endswith(("_mean", "_std"))}
            if self.study.record.summary != figures:
                write_study(self.study, summary=figures)
                self.projection.outdate()
            if self.main.record.retrained != rows:
                write_study(self.main, retrained=rows)
                self.projection.outdate()

    def tidy(self, trials: Sequence[TrialRecord]) -> None:
        """Adapters stay until all seeds are done and the test split has been scored; then the best seeds' of the first
        configuration and of the one that was scored, as far as earlier seeds' are still there."""
        tested = self.study.record.test
        if self.is_done() and (self.data.test is None or tested is not None):
            kept: list[TrialRecord] = []
            for group in (self.leading(), self.seeds_of(None if tested is None else tested.trial)):
                there = [trial for trial in ranked(group) if (self.trial_folder(trial.number) / ADAPTER).is_dir()]
                kept += [trial for trial in there[: self.config.search.keep_adapters] if trial not in kept]
            others = [trial for trial in trials if trial not in kept]
            artifacts.keep_best(self.folder, kept + others, len(kept))
