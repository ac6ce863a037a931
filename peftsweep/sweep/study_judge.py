"""What answers a worker: trials from Optuna, verdicts by successive halving, results to storage and MLflow."""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import optuna

from peftsweep.config import StudyConfig, TrainConfig
from peftsweep.data import Dataset
from peftsweep.engine import Command, Judge, Report, Result, Scores, ScoreTrial, Trial
from peftsweep.engine import Progress as Progressed
from peftsweep.methods import Method
from peftsweep.models import BaseInfo
from peftsweep.progress import Memory, Opened, Progress, peak_memory, test_score
from peftsweep.storage import (
    HeldOutScores,
    StoredStudy,
    Studies,
    TrialRecord,
    TrialState,
    count_states,
    write_study,
    write_trial,
)
from peftsweep.study import artifacts, exhausted, grid_size, halving, samplers, space
from peftsweep.study.results import done, is_over, ranked
from peftsweep.study.trial_files import ADAPTER, trial_folder
from peftsweep.sweep.live_progress import RemainingTime, TrialCounts
from peftsweep.sweep.projection import Projection, stored
from peftsweep.sweep.study_params import study_params
from peftsweep.sweep.trial_params import UnfitError, complete, trained
from peftsweep.system.folders import inside
from peftsweep.system.signals import StopSignal
from peftsweep.tracking import Tracker, now


class StudyJudge(Judge):
    """Everything between a worker and the study.

    Attributes:
        total: trials that the study is to have in all.
        stop: whether a signal has asked for the end.
    """

    def __init__(
        self,
        config: StudyConfig,
        study: StoredStudy,
        studies: Studies,
        data: Dataset,
        tracker: Tracker,
        progress: Progress,
        total: int,
        timeout: float | None,
        stop: StopSignal,
    ) -> None:
        self.config, self.study, self.studies, self.data = config, study, studies, data
        self.progress, self.stop = progress, stop
        self.total = total if config.search.sampler != "grid" else min(total, grid_size(config))
        self.deadline = math.inf if timeout is None else time.monotonic() + timeout
        pruner = config.search.pruner
        self.halving = None if pruner is None else halving.Halving(pruner.reduction, pruner.min_evals)
        self.folder = studies.own_folder(config.name)
        self.projection = Projection(study, tracker, self.folder)
        if study.record.total != self.total:
            write_study(study, total=self.total)
            self.projection.outdate()
        self.orphans = deque(trial.number for trial in studies.orphans(study))
        for number in self.orphans:  # before any trial ends: by those that have ended they were, or are, drawn
            with suppress(UnfitError):
                self.complete(studies.adopt(study, number))
        self.running: dict[int, optuna.Trial] = {}
        self.seconds: dict[str, float] = {}  # where the pack's time went
        self.all_given = False  # no trial is left to ask for; a free slot asks before every step
        self.trial_counts: TrialCounts | None = None  # None when trials have changed since
        self.remaining = RemainingTime(self.halving, self.deadline)
        self.test_scores: dict[int, Scores] = {}  # on the test split, as long as others are to come
        self.base: BaseInfo | None = None
        self.method: Method | None = None
        for trial in self.trials():
            if trial.state.finished:  # a process that died between telling and tidying up
                artifacts.drop_checkpoints(self.trial_folder(trial.number))

    # What there is to do --------------------------------------------------------------------------------------------

    def trials(self) -> list[TrialRecord]:
        return self.study.records()

    def trial(self, number: int) -> TrialRecord:
        return next(trial for trial in self.trials() if trial.number == number)

    def done(self) -> int:
        return done(self.trials())

    def left(self) -> int:
        """Trials that are still to be run: orphans of a process that died, and those not asked for yet."""
        return len(self.orphans) + max(0, self.total - self._begun())

    def _begun(self) -> int:
        return sum(trial.begun for trial in self.trials())

    def has_work(self) -> bool:
        return bool(self.orphans) or (self.left() > 0 and not self._exhausted()) or bool(self.test_due())

    def candidates(self, end: Literal["low", "high"] = "high") -> list[TrainConfig]:
        """Hyperparameters that bound what the trials may ask for."""
        return space.candidates(self.config, end)

    def _exhausted(self) -> bool:
        return exhausted(self.config, self.study)

    def opened(self, base: BaseInfo, method: Method, summary: Opened) -> None:
        """The base is loaded and the pack stands: say so, to the person and to MLflow."""
        self.base, self.method = base, method
        artifacts.keep_study(self.folder, self.config, self.data)
        write_study(self.study, described=study_params(self.config, base, self.data))
        if summary.memory is not None:
            write_study(self.study, memory={"planned_bytes": summary.memory.planned})
        self.projection.open()
        self.progress.opened(summary)

    # Answers to the worker ------------------------------------------------------------------------------------------

    def has_given_all(self) -> bool:
        return self.all_given

    def wants_stop(self) -> bool:
        return self.stop.asked

    def note(self, text: str) -> None:
        self.progress.note(text)

    def next(self) -> Trial | None:
        while not (self.stop.asked or self.all_given):
            if resumed := bool(self.orphans):
                asked = self.studies.adopt(self.study, self.orphans.popleft())
            elif self._begun() >= self.total or time.monotonic() >= self.deadline or self._exhausted():
                self.all_given = True
                break
            else:
                asked = self._new()
            self.trial_counts = None
            try:
                return self._start(asked, self.complete(asked), resumed=resumed)
            except UnfitError as error:
                self._refuse(asked, str(error))
        return None

    def _new(self) -> optuna.Trial:
        asked = self.ask()
        write_trial(asked, began=now())
        # a database that was deleted may have left a trial of this number here
        shutil.rmtree(self.trial_folder(asked.number), ignore_errors=True)
        return asked

    def ask(self) -> optuna.Trial:
        """A new trial, or one that was enqueued; it has no parameters yet but what a person gave it."""
        return self.study.ask()

    def complete(self, asked: optuna.Trial) -> dict[str, Any]:
        """A trial's parameters; it is given those that it lacks.

        Raises:
            UnfitError: it cannot be trained.
        """
        return complete(self.studies, self.config, asked, self.record(asked).params)

    def record(self, asked: optuna.Trial) -> TrialRecord:
        """What is kept of a trial that is to be trained.

        Raises:
            UnfitError: no sweep has kept such a thing.
        """
        if why := self.study.why_unreadable(asked.number):
            raise UnfitError([f"it cannot be read: {why}"])
        return self.trial(asked.number)

    def seed(self, asked: optuna.Trial) -> int:
        """Of a trial's first weights, order of batches and dropout."""
        return samplers.trial_seed(self.config.train.seed, asked.number)

    def _start(self, asked: optuna.Trial, drawn: Mapping[str, Any], *, resumed: bool) -> Trial:
        params, seed = self.config.hyperparameters(space.decode(self.config, drawn)), self.seed(asked)
        if resumed:
            known = self.trial(asked.number)
            pause = artifacts.pause(known, self.trial_folder(known.number))
            write_trial(asked, pauses=[*known.pauses, pause])
        write_trial(asked, params=space.described(self.config, params), seed=seed)
        self.running[asked.number] = asked
        self.projection.begin(self.trial(asked.number))
        return Trial(asked.number, seed, params, self.trial_folder(asked.number))

    def _refuse(self, asked: optuna.Trial, reason: str) -> None:
        """End a trial that cannot be trained, with the reason; the others go on."""
        write_trial(asked, reason=reason, ended=now())
        self.study.tell(asked, state=TrialState.FAILED.in_optuna)
        self.progress.ended(asked.number, TrialState.FAILED, None, reason, {}, 0.0)
        if self.study.why_unreadable(asked.number) is None:
            ended = self.trial(asked.number)
            self.projection.begin(ended)
            self.projection.end(ended)

    def report(self, reports: Sequence[Report]) -> list[bool]:
        at: dict[int, tuple[int, float]] = {}
        kept: set[int] = set()
        known = {trial.number: trial for trial in self.trials()}
        for entry in reports:
            number, evaluation = entry.trial.number, entry.evaluation
            value = evaluation.scores[self.config.search.objective]
            asked, judged = self.running[number], known[number]  # maybe before the process died
            if evaluation.index not in judged.reported:  # it is when a judged trial goes on
                asked.report(value, step=evaluation.index)
            before = judged.evaluations
            evaluations = [*before[: evaluation.index - 1], stored(evaluation, before)]
            # seconds: so that `status` counts those of a trial that is stopped
            write_trial(asked, evaluations=evaluations, seconds=entry.seconds)
            if len(before) < evaluation.index:  # else MLflow was told when the trial went on
                self.projection.evaluated(number, evaluations[-1])
            if judged.kept >= evaluation.index:  # others have come to the rung since
                kept.add(number)
            elif judged.dropped != evaluation.index:
                at[number] = (evaluation.index, value)
        if self.halving is None:
            return [True] * len(reports)
        for number, keeps in self.halving.decide(at, self.study).items():
            if keeps:
                write_trial(self.running[number], kept=at[number][0])
                kept.add(number)
            else:
                write_trial(self.running[number], dropped=at[number][0])
        return [entry.trial.number in kept for entry in reports]

    def finish(self, trial: Trial, result: Result) -> None:
        asked = self.running.pop(trial.number)
        self.remaining.pace.add_trials([result.status])
        self.trial_counts = None
        adapter: Path | None = None
        if result.state == "complete":
            assert self.method is not None and self.base is not None
            adapter = artifacts.write(trial, result, self.config, self.method, self.base, self.data, self.progress.warn)
        scores = {} if result.best is None else result.best.scores
        write_trial(
            asked,
            scores=scores,
            step=None if result.best is None else result.best.step,
            parameters=result.parameters,
            reason=result.reason,
            seconds=result.seconds,
            adapter=None if adapter is None else str(adapter.relative_to(self.studies.artifacts)),
            ended=now(),
        )
        value = scores.get(self.config.search.objective)
        self.study.tell(asked, value if result.state == "complete" else None, state=TrialState(result.state).in_optuna)
        trials = self.trials()
        self.projection.end(self.trial(trial.number))
        artifacts.drop_checkpoints(trial.folder)
        self.tidy(trials)
        self.progress.ended(trial.number, result.state, value, result.reason, self.sampled(trial), result.seconds)
        self.projection.note()

    def progressed(self, event: Progressed) -> None:
        if self.trial_counts is None:  # a query a step would show on a GPU
            self.trial_counts = TrialCounts.of(self.trials())
        trials, begun, done, best = self.trial_counts
        coming = 0 if self.all_given else len(self.orphans) + max(0, self.total - begun)
        left = self.remaining.update(event, coming, trials)
        self.progress.step(event.slots, done=done, total=self.total, best=best, eta=left)

    # Results --------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Trials by state; one that runs in the storage was stopped, and the next run goes on with it."""
        found = count_states((trial.state for trial in self.trials()), live=False)
        return {name: count for name, count in sorted(found.items()) if count}

    def scored(self, number: int, scores: Scores) -> None:
        self.test_scores[number] = scores

    def more_work(self) -> list[Command]:
        """The next of those trials that are to be scored on the test split, once and for good."""
        if self.stop.asked:
            return []
        due = self.test_due()
        for ended in due:
            if ended.number not in self.test_scores:
                folder = self.trial_folder(ended.number)
                trial = Trial(ended.number, ended.seed or 0, trained(self.config, ended), folder)
                return [ScoreTrial(trial, folder / ADAPTER)]
        if due:
            self.tested([(ended, self.test_scores[ended.number]) for ended in due])
        return []

    def test_due(self) -> list[TrialRecord]:
        """Trials to be scored on the test split, if none was before: one that is looked at twice is a validation
        split. None whose adapters are gone, or stayed with the study that this one was copied from."""
        known = self.data.test is None or self.study.record.test is not None
        due = [] if known else self.winners()
        return due if all((self.trial_folder(trial.number) / ADAPTER).is_dir() for trial in due) else []

    def winners(self) -> list[TrialRecord]:
        """The best trial, if the study is done."""
        trials = self.trials()
        return ranked(trials)[:1] if is_over(trials, self.total) else []

    def tested(self, scored: Sequence[tuple[TrialRecord, Scores]]) -> None:
        """Keep the scores on the test split."""
        ((best, scores),) = scored
        write_study(self.study, test=HeldOutScores(trial=best.number, scores=dict(scores)))
        self.progress.note(test_score(best.number, scores, self.config.search.objective))

    def took(self, memory: Memory, taken: int) -> None:
        """What the pack took of the GPU's memory at most, in bytes: the study keeps it, and the person is told."""
        write_study(self.study, memory={**self.study.record.memory, "peak_bytes": taken})
        self.progress.note(peak_memory(memory, taken))

    def conclude(self) -> None:
        """Keep what came of the trials together, if they are done: the page and MLflow tell it. Of a sweep, there is
        nothing but its trials."""
        if self.data.test is not None and self.study.record.test is None and self.winners() and not self.test_due():
            self.progress.note(f"test split: not scored, for the best trial's adapter is not in {self.folder}")

    def close(self) -> None:
        """End what MLflow still believes to be running, and tidy up after a process that died before it could."""
        self.projection.close(self.running, self.total)
        self.tidy(self.trials())

    def tidy(self, trials: Sequence[TrialRecord]) -> None:
        """Remove the adapters that nobody wants any more."""
        artifacts.keep_best(self.folder, ranked(trials), self.config.search.keep_adapters)

    # Small things ---------------------------------------------------------------------------------------------------

    def trial_folder(self, number: int) -> Path:
        """
        Raises:
            StorageError: a link leads out of the study's folder.
        """
        return inside(self.folder, trial_folder(self.folder, number))

    def sampled(self, trial: Trial) -> dict[str, Any]:
        """Those that the search chose."""
        own = space.described(self.config, trial.params)
        return {key: value for key, value in own.items() if key in self.config.space}
