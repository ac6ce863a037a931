"""How `retrain` works: a study's best configurations are trained with fresh seeds, to see how good they really are.

A study's best score is the highest of many, and therefore too high. The seeds are trials of a second Optuna study,
`NAME/retrain`, so the search does not learn from them. They stop and resume like all trials.
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
    check_apart,
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
from peftsweep.tracking import MlflowRuns, Tracker, check_address


@dataclass(frozen=True)
class RetrainResult:
    """The result: a row for each configuration, the best mean first (see `seeds.summarised`)."""

    rows: list[dict[str, Any]]
    seconds: dict[str, float]  # where the time went; empty if nothing was left to train
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
    """Train the best configurations of a study with several seeds each, or resume that.

    A seed decides first weights, order of batches and dropout. The study's own trials do not count, because they were
    chosen by their scores. All configurations get the same seeds, in every call, so seeds that exist are not trained
    again. Nothing is pruned; a seed's score is that of its best evaluation, as in the sweep. Once the study is done,
    the configuration with the best mean is scored on the test split, once and never again.

    Args:
        study: a name in `sweeps/`, a path to a study file, or a study built in Python; it has been run before.
        seeds: number for each configuration, including earlier calls.
        top: number of configurations: the best of the study.
        slots, overrides, storage, tracking_uri, progress: as in `run`.

    Raises:
        PeftsweepError: with one clear message. Finished seeds are kept.
    """
    check_arguments(study, slots, overrides)
    check_address(tracking_uri)
    check_apart(storage, tracking_uri)
    check_at_least(2, "seeds", seeds)
    check_at_least(1, "top", top)
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
            again = _companion(studies, found, config, data)
            tracker = Tracker(MlflowRuns(tracking_uri), note=shown.warn)
            source = SeedJudge(config, found, again, best, seeds, studies, data, tracker, shown, stop)
            _say(shown, found, best, top, seeds)
            train(source, slots, tracking_uri)
            return RetrainResult(summarised(found, again), source.seconds, stop.number)


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
    if not _is_done(study):
        ended = done(study.records())
        shown.note(
            f"retrain: {name!r} is not done ({ended} of {study.record.total} trials): its best may change, and "
            f"the test split is not scored before; go on with: peftsweep run --study {name}"
        )


def _is_done(study: StoredStudy) -> bool:
    """Whether the study has all trials that its last run asked for."""
    return is_over(study.records(), study.record.total or 0)


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
            if row["test"]:  # the seeds that were scored are gone: the study was moved without them
                scores = {name: score for name, score in row["test"].items() if name != "seeds"}
                write_study(again, test=HeldOutScores(trial=row["trial"], seeds=row["test"]["seeds"], scores=scores))
    if again.record.retrain_of != key:
        raise StudyMismatchError(
            f"study {again.study_name!r} in {masked(studies.url)} has seeds of an earlier study {config.name!r}, which "
            f"is gone; delete it too: optuna delete-study --storage … --study-name {again.study_name}"
        )
    return again


class SeedJudge(StudyJudge):
    """Starts the seeds that are wanted, and no other trials; prunes nothing. A seed enters the study when it begins, so
    seeds that were wanted once and never began leave no trace.

    Args:
        main: the study whose configurations the seeds have.
        again: the study of the seeds.
        best: trials of `main`; each of their configurations shall have this many `seeds`.

    Attributes:
        wanted: the seeds that have not begun, in turns of one for each configuration: the configuration's trial, and
            which seed it is. There may be millions.
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
        """The configurations that are retrained."""
        picked = {seed.retrains for seed in seeds_begun(self.study)} | {trial.number for trial in self.best}
        trials = [trial for trial in self.main.records() if trial.number in picked]
        return [trial_params.trained(self.config, trial) for trial in trials]

    def _exhausted(self) -> bool:
        return self.unbegun == 0

    def ask(self) -> optuna.Trial:
        """The next seed that is wanted."""
        self.unbegun -= 1
        picked, replicate = next(self.wanted)
        return self.studies.begin(self.study, retrains=picked.number, replicate=replicate)

    def complete(self, asked: optuna.Trial) -> dict[str, Any]:
        """Give a seed the parameters of its configuration's trial."""
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
        """The complete seeds of the configuration with the best mean, if the study and its seeds are done."""
        return self.leading() if self.is_done() and _is_done(self.main) else []

    def tested(self, scored: Sequence[tuple[TrialRecord, Scores]]) -> None:
        each = [scores for _, scores in scored]
        first = scored[0][0].retrains
        assert first is not None  # each is a seed
        self.keep_test(HeldOutScores(trial=first, seeds=len(each), scores=means(each)))

    def is_done(self) -> bool:
        return is_over(self.trials(), self.total)

    def leading(self) -> list[TrialRecord]:
        """The complete seeds of the first configuration."""
        rows = summarised(self.main, self.study)
        return self.seeds_of(rows[0]["trial"]) if rows else []

    def seeds_of(self, number: int | None) -> list[TrialRecord]:
        """The complete seeds of the configuration that the study's trial with this number has."""
        return complete([seed for seed in seeds_begun(self.study) if seed.retrains == number])

    def conclude(self) -> None:
        """Record the rows in the study, and means and deviations for MLflow, once all seeds are done."""
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
        """Keep all adapters until the seeds are done and the test split is scored. Then keep those of the best seeds of
        the first configuration, and of the one that was scored."""
        tested = self.study.record.test
        if self.is_done() and (self.data.test is None or tested is not None):
            kept: list[TrialRecord] = []
            for group in (self.leading(), self.seeds_of(None if tested is None else tested.trial)):
                there = [trial for trial in ranked(group) if (self.trial_folder(trial.number) / ADAPTER).is_dir()]
                kept += [trial for trial in there[: self.config.search.keep_adapters] if trial not in kept]
            others = [trial for trial in trials if trial not in kept]
            artifacts.keep_best(self.folder, kept + others, len(kept))
