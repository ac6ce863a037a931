"""Which seeds does a retraining still have to train?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import optuna

from peftsweep.config import StudyConfig, TrainConfig
from peftsweep.storage import StoredStudy, Studies, TrialRecord
from peftsweep.study import samplers, space
from peftsweep.study.seeds import is_seed, seeds_begun, still_wanted
from peftsweep.sweep import trial_params
from peftsweep.sweep.trial_params import UntrainableError
from peftsweep.sweep.trial_supply import TrialSupply


class SeedSupply(TrialSupply):
    """The seeds that are wanted, and no other trials. A seed enters the study when it begins, so seeds that were wanted
    once and never began leave no trace.

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
    ) -> None:
        begun = {(seed.retrains, seed.replicate) for seed in seeds_begun(again)}
        self.wanted, self.unbegun = still_wanted(best, seeds, begun)
        total = len(begun) + self.unbegun
        fixed = config.search.model_copy(update={"sampler": "random", "pruner": None, "trials": total})
        renamed = config.model_copy(update={"name": again.study_name, "search": fixed})
        super().__init__(renamed, again, studies, total)
        self.main, self.best = main, best

    def candidates(self, end: Literal["low", "high"]) -> list[TrainConfig]:
        """The configurations that are retrained."""
        picked = {seed.retrains for seed in seeds_begun(self.study)} | {trial.number for trial in self.best}
        trials = [trial for trial in self.main.records() if trial.number in picked]
        return [trial_params.trained(self.config, trial) for trial in trials]

    def is_exhausted(self) -> bool:
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
            raise UntrainableError(["no configuration of the study belongs to this seed"])
        known = space.described(self.config, trial_params.trained(self.config, picked[0]))
        return trial_params.complete(self.studies, self.config, asked, known)

    def seed(self, asked: optuna.Trial) -> int:
        return samplers.replicate_seed(self.config.train.seed, self.record(asked).replicate or 0)
