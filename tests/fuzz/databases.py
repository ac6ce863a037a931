"""Databases of studies and the artifacts beside them, spoilt, for every command that reads them."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
from optuna.trial import TrialState, create_trial

import peftsweep
from peftsweep import comparison, exported, report, sweep
from peftsweep.config import StudyConfig, load
from peftsweep.data import load as load_data
from peftsweep.models import load_tokenizer
from peftsweep.progress import Silent
from peftsweep.stopping import Stop
from peftsweep.storage import Studies, guarded
from peftsweep.sweep.opening import open_study
from peftsweep.sweep.source import StudySource
from peftsweep.tracking import Tracker
from tests.fuzz import spoiling
from tests.fuzz.running import Kind, Plan
from tests.studies import Home, home

WAYS = {
    "row": (spoiling.row, 6),
    "artifact": (spoiling.artifact, 2),
    "foreign": (spoiling.foreign, 1),
    "bytes": (spoiling.some_bytes, 1),
    "table": (spoiling.table, 1),
}
# What is done with a database, and how often: the last ones take a second at times.
VIEWS = {
    "best": 4,
    "status": 2,
    "finished": 2,
    "compare": 4,
    "resume": 6,
    "page": 2,
    "export": 2,
    "sync": 1,
    "again": 1,
}


class Databases(Kind):
    """Two studies of complete trials, one that runs and one that failed, and the seeds of one of them."""

    name, share = "databases", 10

    def __init__(self, folder: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.home = home(folder)
        options = {"storage": self.home.storage, "tracking_uri": self.home.tracking_uri}
        small = self.home.study(search={"trials": 2})
        other = self.home.study("other", method="ia3", space={"learning_rate": [1e-2, 5e-3]}, search={"trials": 2})
        for file in (small, other):
            self.home.run(file)
            study = optuna.load_study(study_name=file.stem, storage=self.home.storage)
            first = study.trials[0]
            for state in (TrialState.RUNNING, TrialState.FAIL):
                study.add_trial(create_trial(state=state, params=first.params, distributions=first.distributions))
        sweep.retrain(small, seeds=2, top=1, **options)
        sweep.sync(**options)
        (folder / "artifacts" / "comparison.html").unlink()
        self.configs: dict[str, StudyConfig] = {"small": load(small), "other": load(other)}
        self.data = load_data(
            self.configs["small"].data, load_tokenizer(self.configs["small"].model), note=str, warn=str
        )
        with closing(sqlite3.connect(folder / "studies.db")) as database:
            database.execute("PRAGMA journal_mode = DELETE")

    def make(self, rng: random.Random, folder: Path) -> Plan:
        shutil.copyfile(self.home.folder / "studies.db", folder / "studies.db")
        shutil.copytree(self.home.folder / "artifacts", folder / "artifacts")
        (way,) = rng.choices(list(WAYS), [often for _, often in WAYS.values()])
        done = [WAYS[way][0](folder, rng) for _ in range(rng.choice([1, 1, 1, 2, 4]))]
        (view,) = rng.choices(list(VIEWS), list(VIEWS.values()))
        return {"view": view, "study": rng.choice(["small", "small", "other"]), "done": done}

    def use(self, folder: Path, plan: Plan) -> None:
        view = getattr(self, f"_{plan['view']}")
        view(Home(folder), plan["study"])

    def _best(self, place: Home, study: str) -> None:
        json.dumps([row.as_dict() for row in report.best(place.storage)])

    def _status(self, place: Home, study: str) -> None:
        json.dumps(report.status(place.storage))

    def _finished(self, place: Home, study: str) -> None:
        report.finished(place.storage, study)

    def _compare(self, place: Home, study: str) -> None:
        json.dumps(comparison.compare(place.storage).as_dict(), allow_nan=False)

    def _page(self, place: Home, study: str) -> None:
        sweep.compare(storage=place.storage, tracking_uri=self._mlflow(place))

    def _export(self, place: Home, study: str) -> None:
        exported.export(study, place.folder / "out", storage=place.storage)

    def _sync(self, place: Home, study: str) -> None:
        sweep.sync(storage=place.storage, tracking_uri=self._mlflow(place), studies=[study])

    def _again(self, place: Home, study: str) -> None:
        sweep.retrain(self.configs[study], seeds=2, top=1, storage=place.storage, tracking_uri=self._mlflow(place))

    def _resume(self, place: Home, study: str) -> None:
        """As `run` does, up to what takes seconds: nothing is trained."""
        config = self.configs[study]
        with guarded(place.storage):
            studies = Studies(place.storage)
            with studies.lease(config.name):
                opened = open_study(studies, config, self.data)
                tracker = Tracker("http://127.0.0.1:9", note=str)
                source = StudySource(config, opened, studies, self.data, tracker, Silent(), 4, None, Stop())
                try:
                    if source.has_work():
                        source.bounds()
                        for _ in range(3):
                            source.next()
                    source.stepped([], 0.0)
                    source.counts()
                finally:
                    tracker.abandon()
        peftsweep.best(place.storage, [study])

    def _mlflow(self, place: Home) -> str:
        shutil.copyfile(self.home.folder / "mlflow.db", place.folder / "mlflow.db")
        return place.tracking_uri
