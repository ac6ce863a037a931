"""How does the study answer a worker? Trials from Optuna, verdicts by halving, results to storage and tracker."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from peftsweep.data import Dataset
from peftsweep.engine import Command, Event, Idle, Progressed, Report, Result, Scores, ScoreTrial, StartTrials, Trial
from peftsweep.methods import Method
from peftsweep.models import BaseInfo
from peftsweep.progress import EndedTrial, Opened, Progress, lost_scores, peak_memory, test_score
from peftsweep.storage import HeldOutScores, TrialRecord, write_study, write_trial
from peftsweep.study import Halving, artifacts
from peftsweep.study.trial_files import ADAPTER
from peftsweep.sweep.heartbeat import Heartbeat
from peftsweep.sweep.judge import Judge
from peftsweep.sweep.kept_adapters import KeptAdapters
from peftsweep.sweep.live_status import LiveStatus
from peftsweep.sweep.projection import Projection, recorded
from peftsweep.sweep.running import Place, Running
from peftsweep.sweep.stop_requests import StopRequests
from peftsweep.sweep.study_params import study_params
from peftsweep.sweep.suspects import DEATHS, Suspects
from peftsweep.sweep.trial_params import UntrainableError, trained
from peftsweep.sweep.trial_supply import TrialSupply
from peftsweep.system.signals import StopSignal
from peftsweep.tracking import Tracker, now
from peftsweep.trial_state import Ended, TrialState, count_states
from peftsweep.workers import Memory, Usage

NOTES = 10.0  # seconds between two notes of how far the tracker is


class StudyJudge(Judge):
    """Stands between the workers and the study.

    Attributes:
        stop: whether a signal asked to stop.
        requests: what `peftsweep stop` asked.
        failed: the error that has ended the study, in a line.
        places: where each worker trains.
        waiting: number of other workers that wait for their first trials.
        after_commit: what others learn of the study, and what is deleted, once the study is stored.
    """

    def __init__(
        self, supply: TrialSupply, data: Dataset, tracker: Tracker, progress: Progress, stop: StopSignal
    ) -> None:
        self.supply, self.data, self.progress, self.stop = supply, data, progress, stop
        self.config, self.study, self.studies = supply.config, supply.study, supply.studies
        halving = self.config.search.pruner
        self.halving = None if halving is None else Halving(halving.reduction, halving.min_evals)
        self.projection = Projection(self.study, tracker, supply.folder)
        if self.study.record.total != supply.total:
            write_study(self.study, total=supply.total)
            self.projection.outdate()
        self.running: dict[int, Running] = {}
        self.failed = ""
        self.requests = StopRequests(progress.note)
        self.places: dict[int, Place] = {}
        self.waiting = 0
        self.told_all: set[int] = set()  # workers that believe that there are no more trials for them
        self.suspects = Suspects()
        self.seconds: dict[str, float] = {}  # where the workers' time went
        self.workers: set[int] = set()  # numbers of those that trained it and have ended
        self.trained: list[float] = []  # how old the process was when a worker began to train, or ended
        self.live = LiveStatus(self.halving, supply, len(data.validation))
        self.heartbeat = Heartbeat(self.study, self.places, self.running, self.live, self.requests)
        self.after_commit: deque[Callable[[], object]] = deque()
        self.test_scores: dict[int, Scores] = {}  # on the test split, until all that are due have one
        self.unscored: set[int] = set()  # trials that could not be scored
        self.base: BaseInfo | None = None
        self.method: Method | None = None
        supply.complete_orphans()
        self.commit()
        finished = [trial for trial in supply.trials() if trial.state.finished]
        self.adapters = KeptAdapters(supply.folder, self.config.search.keep_adapters, finished)
        for trial in finished:  # a process may have died before it tidied up
            artifacts.drop_checkpoints(supply.trial_folder(trial.number))
        if supply.ledger.best(0, 1):  # earlier runs wrote the study's files
            artifacts.restore_study(supply.folder, self.config, data)

    def has_work(self) -> bool:
        return self.supply.has_work() or bool(self.test_due())

    def opened(self, base: BaseInfo, method: Method, summary: Opened) -> None:
        """Tell the user and the tracker that the base is loaded and the pack is built."""
        self.base, self.method = base, method
        artifacts.keep_study(self.supply.folder, self.config, self.data)
        write_study(self.study, described=study_params(self.config, base, self.data))
        if summary.memory is not None:
            write_study(self.study, memory={"planned_bytes": summary.memory.planned})
        self.projection.tracker.rest()
        self.projection.open()
        self.progress.opened(summary)

    # Answers to the worker ------------------------------------------------------------------------------------------

    def answer(self, events: Sequence[Event], worker: int = 0) -> list[Command]:
        commands = super().answer(events, worker)
        if worker in self.told_all and Idle() not in events and not self.has_given_all(worker):
            self.told_all.discard(worker)
            commands.append(StartTrials((), more=True))
        return [*commands, *self.requests.commands(worker, self.running)]

    def has_given_all(self, worker: int) -> bool:
        if self.may_give(worker) and self.supply.has_more(partial(self.suspects.may_begin, worker)):
            return False
        self.told_all.add(worker)
        return True

    def may_give(self, worker: int) -> bool:
        """Whether a worker may have one more trial: enough are left for each that waits to have as many as this one."""
        own = sum(trial.worker == worker for trial in self.running.values()) if self.waiting else 0
        return own * self.waiting < self.supply.left()

    def wants_stop(self) -> bool:
        return self.is_stopped or bool(self.failed)

    @property
    def is_stopped(self) -> bool:
        """Whether a signal or a person asked to stop."""
        return self.stop.asked or bool(self.requests.by)

    def note(self, text: str) -> None:
        self.progress.note(text)

    def next(self, worker: int) -> Trial | None:
        fits = partial(self.suspects.may_begin, worker)
        while not self.is_stopped and self.may_give(worker) and (offer := self.supply.next(fits)) is not None:
            if why := self.requests.why(offer.asked.number):  # its worker was lost before it could end the trial
                self._end_here(offer.asked, TrialState.PRUNED, f"{why} before it was resumed")
                continue
            try:
                trial = self.supply.start(offer)
            except UntrainableError as error:
                self._end_here(offer.asked, TrialState.FAILED, str(error))
            else:
                self.running[trial.number] = Running(offer.asked, trial, worker)
                self.suspects.begin(worker, trial.number)
                if worker in self.places and self.places[worker].node is not None:
                    write_trial(offer.asked, worker=f"{worker} on {self.places[worker].name}")
                self.after_commit.append(partial(self.projection.begin, self.supply.trial(trial.number)))
                return trial
        return None

    def _end_here(self, asked: optuna.Trial, state: Ended, reason: str) -> None:
        """End a trial that no worker trains, with the reason. The others go on."""
        write_trial(asked, reason=reason, ended=now())
        self.study.end(asked, state)
        ended = EndedTrial(asked.number, state, None, reason, {}, 0.0)
        self.after_commit.append(partial(self.progress.ended, ended))
        if self.study.why_unreadable(asked.number) is None:
            trial = self.supply.trial(asked.number)
            self.after_commit.append(partial(self.projection.begin, trial))
            self.after_commit.append(partial(self.projection.end, trial))

    def report(self, reports: Sequence[Report]) -> list[bool]:
        at: dict[int, tuple[int, float]] = {}
        kept: set[int] = set()
        for entry in reports:
            number, evaluation = entry.trial.number, entry.evaluation
            value = evaluation.scores[self.config.search.objective]
            asked = self.running[number].asked
            judged = self.supply.trial(number)  # maybe by a process that died
            if evaluation.index not in judged.reported:  # it was, if a trial resumes from before a verdict
                asked.report(value, step=evaluation.index)
            before = judged.evaluations
            evaluations = [*before[: evaluation.index - 1], recorded(evaluation, before)]
            # seconds are written too, so that `status` counts those of a stopped trial
            write_trial(asked, evaluations=evaluations, seconds=entry.seconds)
            if len(before) < evaluation.index:  # otherwise the tracker got it when the trial resumed
                self.suspects.reach(self.running[number].worker, number)
                self.after_commit.append(partial(self.projection.evaluated, number, evaluations[-1]))
            if judged.kept >= evaluation.index:  # keep that verdict, though others have reached the rung since
                kept.add(number)
            elif judged.dropped != evaluation.index:
                at[number] = (evaluation.index, value)
        if self.halving is None:
            return [True] * len(reports)
        for number, keeps in self.halving.decide(at, self.supply.ledger.rungs).items():
            if keeps:
                write_trial(self.running[number].asked, kept=at[number][0])
                kept.add(number)
            else:
                write_trial(self.running[number].asked, dropped=at[number][0])
        return [entry.trial.number in kept for entry in reports]

    def finish(self, trial: Trial, result: Result) -> None:
        asked, trial, worker = self.running.pop(trial.number)  # the worker may keep checkpoints in a folder of its own
        self.live.ended(worker, result.status)
        self.suspects.end(worker, trial.number)
        scores = {} if result.best is None else result.best.scores
        value, complete = scores.get(self.config.search.objective), result.state == TrialState.COMPLETE
        adapter: Path | None = None
        if complete:
            assert self.method is not None and self.base is not None
            how = self.config, self.method, self.base, self.data, self.progress.warn
            best = result.weights is not None and self.adapters.keeps(trial.number, value or 0.0)
            adapter = artifacts.write(trial, result, *how, best=best)
            if adapter is not None:
                self.adapters.add(trial.number, value or 0.0)
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
        self.study.end(asked, result.state, value if complete else None)
        ended = EndedTrial(trial.number, result.state, value, result.reason, self.sampled(trial), result.seconds)
        self.after_commit.append(partial(self._ended, trial, ended))

    def _ended(self, trial: Trial, ended: EndedTrial) -> None:
        """After a trial's result is stored: tell the tracker and the user, and delete what nobody needs any more."""
        self.projection.end(self.supply.trial(trial.number))
        artifacts.drop_checkpoints(trial.folder)
        self.tidy()
        self.progress.ended(ended)
        self.projection.note(least=NOTES)

    def lose(self, worker: int, reason: str) -> None:
        """A worker is gone. Its trials go on elsewhere, unless it is known which of them killed it."""
        numbers = sorted(number for number, trial in self.running.items() if trial.worker == worker)
        asked = {number: self.running.pop(number).asked for number in numbers}
        if (guilty := self.suspects.lose(numbers)) is not None:
            why = f"{DEATHS} workers were lost while they trained it; the last: {reason}"
            self._end_here(asked.pop(guilty), TrialState.FAILED, why)
        self.supply.orphans += asked
        self.leave(worker)
        then = f"; trials to be resumed: {', '.join(map(str, asked))}" if asked else ""
        self.progress.warn(f"worker {worker} was lost: {reason}{then}")

    def leave(self, worker: int) -> None:
        """Forget a worker that trains this study no longer."""
        self.told_all.discard(worker)
        self.places.pop(worker, None)
        self.live.forget(worker)
        self.suspects.leave(worker)

    def commit(self) -> None:
        """Store what has changed since the last commit, all of it or nothing; and only then let it be seen outside the
        study. So a kill leaves no checkpoint deleted, and no run in the tracker ended, of a trial that is resumed."""
        self.heartbeat.beat()
        self.study.flush()
        while self.after_commit:
            self.after_commit.popleft()()

    def progressed(self, event: Progressed, worker: int) -> None:
        self.after_commit.append(self.projection.tracker.wake)
        if (status := self.live.update(event, worker, self.places[worker])) is not None:
            self.after_commit.append(partial(self.progress.step, status))

    # Results --------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Number of trials by state. Running ones count as stopped: the next run resumes them."""
        found = sorted(count_states((trial.state for trial in self.supply.trials()), live=False).items())
        return {name: count for name, count in found if count}

    def scored(self, number: int, scores: Scores | None, reason: str) -> None:
        if scores is None:
            self.unscored.add(number)
            self.progress.warn(f"test split: trial {number} was not scored, because it needs too much memory: {reason}")
        else:
            self.test_scores[number] = scores

    def more_work(self) -> list[Command]:
        """A command to score the next trial on the test split. Each is scored once, and never again."""
        if self.is_stopped:
            return []
        due = self.test_due()
        if any(ended.number in self.unscored for ended in due):
            return []  # the next run tries again
        for ended in due:
            if ended.number not in self.test_scores:
                folder = self.supply.trial_folder(ended.number)
                trial = Trial(ended.number, ended.seed or 0, trained(self.config, ended), folder)
                return [ScoreTrial(trial, artifacts.adapter_files(folder / ADAPTER))]
        if due:
            self.tested([(ended, self.test_scores[ended.number]) for ended in due])
        return []

    def has_tests_left(self) -> bool:
        """Whether a trial is to be scored on the test split, and none has failed at it."""
        due = self.test_due()
        return bool(due) and not any(trial.number in self.unscored for trial in due)

    def test_due(self) -> list[TrialRecord]:
        """Trials to be scored on the test split. Empty if one was scored before, because a test split used twice is a
        validation split; empty, too, if an adapter is missing, as in a copied study."""
        due = [] if self.data.test is None or self.study.record.test is not None else self.winners()
        return due if all(map(self.has_adapter, due)) else []

    def has_adapter(self, trial: TrialRecord) -> bool:
        return (self.supply.trial_folder(trial.number) / ADAPTER).is_dir()

    def winners(self) -> list[TrialRecord]:
        """The best trial, if the study is done."""
        ledger = self.supply.ledger
        return ledger.best(0, 1) if ledger.is_over(self.supply.total) else []

    def tested(self, scored: Sequence[tuple[TrialRecord, Scores]]) -> None:
        """Record the scores on the test split."""
        ((best, scores),) = scored
        kept = HeldOutScores(trial=best.number, scores=dict(scores))
        self.keep_test(kept)
        self.progress.note(test_score(best.number, kept.scores, self.config.search.objective))

    def keep_test(self, kept: HeldOutScores) -> None:
        write_study(self.study, test=kept)
        if kept.lost:
            self.progress.warn(lost_scores(kept.trial, kept.lost))

    def used(self, usage: Usage, planned: Memory | None) -> None:
        """Record what the worker used, and show the peak of GPU memory."""
        for kind, seconds in usage.seconds.items():
            self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds
        if planned is not None and usage.peak_bytes is not None:
            write_study(self.study, memory={**self.study.record.memory, "peak_bytes": usage.peak_bytes})
            self.progress.note(peak_memory(planned, usage.peak_bytes))

    def conclude(self) -> None:
        """Record results of all trials together, if they are done. A sweep has none besides its trials."""
        if self.data.test is not None and self.study.record.test is None and self.winners() and not self.test_due():
            place = self.supply.folder
            self.progress.note(f"test split: not scored, because the best trial's adapter is not in {place}")

    def close(self) -> None:
        """End the runs that the tracker believes to be running, and tidy up what a killed process left."""
        self.projection.close(self.running, self.supply.total, self.commit)
        self.tidy()

    def tidy(self) -> None:
        """Remove all adapters but the best `keep_adapters`."""
        self.adapters.tidy()

    def sampled(self, trial: Trial) -> dict[str, Any]:
        """Those that the search chose."""
        known = self.supply.trial(trial.number).params
        return {name: value for name, value in known.items() if name in self.config.space}
