"""What becomes of the seeds of a retraining? Their means are recorded, and the best configuration is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftsweep.data import Dataset
from peftsweep.engine import Scores, Trial
from peftsweep.progress import Progress
from peftsweep.storage import HeldOutScores, StoredStudy, TrialRecord, write_study
from peftsweep.study.results import is_over, ranked
from peftsweep.study.seeds import complete, means, seeds_begun, summarised
from peftsweep.sweep.seed_supply import SeedSupply
from peftsweep.sweep.study_judge import StudyJudge
from peftsweep.system.signals import StopSignal
from peftsweep.tracking import Tracker


class SeedJudge(StudyJudge):
    """Prunes nothing, and records the results of all seeds together."""

    def __init__(
        self, supply: SeedSupply, data: Dataset, tracker: Tracker, progress: Progress, stop: StopSignal
    ) -> None:
        super().__init__(supply, data, tracker, progress, stop)
        self.main = supply.main
        self.adapters.most = None  # until all seeds are done: see `tidy`

    def sampled(self, trial: Trial) -> dict[str, Any]:
        own = self.supply.trial(trial.number)
        return {"of trial": own.retrains, "seed": own.replicate, **super().sampled(trial)}

    def winners(self) -> list[TrialRecord]:
        """The complete seeds of the configuration with the best mean, if the study and its seeds are done."""
        return self.leading() if self.is_done() and has_all_trials(self.main) else []

    def tested(self, scored: Sequence[tuple[TrialRecord, Scores]]) -> None:
        each = [scores for _, scores in scored]
        first = scored[0][0].retrains
        assert first is not None  # each is a seed
        self.keep_test(HeldOutScores(trial=first, seeds=len(each), scores=means(each)))

    def is_done(self) -> bool:
        return is_over(self.supply.trials(), self.supply.total)

    def leading(self) -> list[TrialRecord]:
        """The complete seeds of the first configuration."""
        rows = summarised(self.main, self.study)
        return self.seeds_of(rows[0].trial) if rows else []

    def seeds_of(self, number: int | None) -> list[TrialRecord]:
        """The complete seeds of the configuration that the study's trial with this number has."""
        return complete([seed for seed in seeds_begun(self.study) if seed.retrains == number])

    def conclude(self) -> None:
        """Record the configurations in the study, and means and deviations for the tracker, once all seeds are done."""
        super().conclude()
        if self.is_done():
            rows = summarised(self.main, self.study)
            if self.study.record.summary != rows[0].figures:
                write_study(self.study, summary=rows[0].figures)
                self.projection.outdate()
            if self.main.record.retrained != rows:
                write_study(self.main, retrained=rows)
                self.projection.outdate()

    def tidy(self) -> None:
        """Keep all adapters until the seeds are done and the test split is scored. Then keep those of the best seeds of
        the first configuration, and of the one that was scored."""
        tested = self.study.record.test
        if self.is_done() and (self.data.test is None or tested is not None):
            kept = set[int]()
            for group in (self.leading(), self.seeds_of(None if tested is None else tested.trial)):
                there = list(filter(self.has_adapter, ranked(group)))
                kept |= {trial.number for trial in there[: self.config.search.keep_adapters]}
            self.adapters.keep(kept)


def has_all_trials(study: StoredStudy) -> bool:
    """Whether the study has all trials that its last run asked for, and they have ended."""
    return is_over(study.records(), study.record.total or 0)
