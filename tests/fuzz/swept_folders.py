"""What inputs are made from: the folder of a sweep, made once for all kinds that need it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cached_property
from pathlib import Path

import optuna
from optuna.trial import TrialState, create_trial

from peftsweep import sweep
from tests.studies import LABELS, Home, home
from tests.tiny import tiny_rows, write


class Ground:
    """A folder whose content is made on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def swept(self) -> Home:
        """Three studies: LoRA with its best trial retrained, IA³ on the same rows, IA³ with several labels.

        Each has complete trials, one that was stopped and one that failed.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        made = home(self.folder / "swept")
        options = {"storage": made.storage, "tracking_uri": made.tracking_uri}
        for name, seed in (("train", 1), ("dev", 2)):
            write(made.folder / f"{name}-several.csv", tiny_rows(LABELS, 24, seed))
        files = {"train": made.folder / "train-several.csv", "validation": made.folder / "dev-several.csv"}
        several = {"labels": LABELS} | {key: str(file) for key, file in files.items()}
        ia3 = {"method": "ia3", "space": {"learning_rate": [1e-2, 5e-3]}, "search": {"trials": 2}}
        small = made.study(search={"trials": 2})
        for file in (small, made.study("other", **ia3), made.study("several", data=several, **ia3)):
            made.run(file)
            study = optuna.load_study(study_name=file.stem, storage=made.storage)
            first = study.trials[0]
            for state in (TrialState.RUNNING, TrialState.FAIL):
                study.add_trial(create_trial(state=state, params=first.params, distributions=first.distributions))
        sweep.retrain(small, seeds=2, top=1, **options)
        sweep.sync(**options)
        (made.folder / "artifacts" / "comparison.html").unlink()
        with closing(sqlite3.connect(made.folder / "studies.db")) as database:
            database.execute("PRAGMA journal_mode = DELETE")
        return made
