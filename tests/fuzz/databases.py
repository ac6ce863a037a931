"""Damaged databases and artifacts, given to every command that reads them."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path
from unittest import mock

from optuna.storages import RDBStorage
from optuna.storages._rdb.storage import _VersionManager

import peftsweep
from peftsweep import comparison, export, progress, sweep
from peftsweep.config import StudyConfig, load
from peftsweep.data import Dataset
from peftsweep.data import load as load_data
from peftsweep.engine import Progressed
from peftsweep.models import load_tokenizer
from peftsweep.progress import Silent
from peftsweep.storage import Studies, guarded, settle
from peftsweep.study import results
from peftsweep.study.seeds import summarised
from peftsweep.sweep import retraining
from peftsweep.sweep.open_study import check_same, open_study
from peftsweep.sweep.running import Place
from peftsweep.sweep.seed_judge import SeedJudge
from peftsweep.sweep.seed_supply import SeedSupply
from peftsweep.sweep.study_judge import StudyJudge
from peftsweep.sweep.trial_supply import TrialSupply
from peftsweep.system.signals import StopSignal
from peftsweep.tracking import MlflowRuns, Tracker
from tests.fuzz import damage
from tests.fuzz.running import Kind, Plan
from tests.fuzz.swept_folders import Ground
from tests.studies import Home

STUDIES = ("small", "other", "several")
WAYS = {
    "row": (damage.row, 6),
    "artifact": (damage.artifact, 2),
    "foreign": (damage.foreign, 1),
    "bytes": (damage.some_bytes, 1),
    "table": (damage.table, 1),
}
# What is done with a database, and how often: the last ones may take a second.
VIEWS = {
    "best": 4,
    "status": 2,
    "finished": 2,
    "compare": 4,
    "resume": 6,
    "page": 2,
    "export": 2,
    "sync": 1,
    "seeds": 3,
}


class Databases(Kind):
    name, share = "databases", 4

    def __init__(self, ground: Ground) -> None:
        self.home = ground.swept
        # Whenever Optuna opens a database, it runs twelve scripts to find its newest version: half of an input's time
        newest = RDBStorage(self.home.storage).get_head_version()
        self.patched = mock.patch.object(_VersionManager, "get_head_version", return_value=newest)
        self.patched.start()
        self.configs = {name: load(self.home.folder / f"{name}.yaml") for name in STUDIES}
        self.data = {name: self._data(config) for name, config in self.configs.items()}

    def _data(self, config: StudyConfig) -> Dataset:
        return load_data(config.data, load_tokenizer(config.model), note=str, warn=str)

    def done(self) -> None:
        self.patched.stop()

    def make(self, rng: random.Random, folder: Path) -> Plan:
        shutil.copyfile(self.home.folder / "studies.db", folder / "studies.db")
        shutil.copytree(self.home.folder / "artifacts", folder / "artifacts")
        (way,) = rng.choices(list(WAYS), [often for _, often in WAYS.values()])
        done = [WAYS[way][0](folder, rng) for _ in range(rng.choice([1, 1, 1, 2, 4]))]
        (view,) = rng.choices(list(VIEWS), list(VIEWS.values()))
        return {"view": view, "study": rng.choice(["small", *STUDIES]), "done": done}

    def use(self, folder: Path, plan: Plan) -> None:
        view = getattr(self, f"_{plan['view']}")
        view(Home(folder), plan["study"])

    def _best(self, place: Home, study: str) -> None:
        rows = peftsweep.best(place.storage)
        json.dumps([row.as_dict() for row in rows])
        progress.best_table(rows, io.StringIO())

    def _status(self, place: Home, study: str) -> None:
        rows = peftsweep.status(place.storage)
        json.dumps(rows)
        progress.status_table(rows, io.StringIO())

    def _finished(self, place: Home, study: str) -> None:
        results.finished(place.storage, study)

    def _compare(self, place: Home, study: str) -> None:
        json.dumps(comparison.compare(place.storage).as_dict(), allow_nan=False)

    def _page(self, place: Home, study: str) -> None:
        sweep.compare(storage=place.storage, tracking_uri=self._mlflow(place))

    def _export(self, place: Home, study: str) -> None:
        export.export(study, place.folder / "out", storage=place.storage)

    def _sync(self, place: Home, study: str) -> None:
        sweep.sync(storage=place.storage, tracking_uri=self._mlflow(place), studies=[study])

    def _resume(self, place: Home, study: str) -> None:
        """Resume as `run` does, but stop before the training, which takes seconds."""
        config, data = self.configs[study], self.data[study]
        with guarded(place.storage):
            studies = Studies(place.storage)
            with studies.lease(config.name):
                opened = open_study(studies, config, data)
                _begun(StudyJudge(TrialSupply(config, opened, studies, 4), data, _silenced(), Silent(), StopSignal()))

    def _seeds(self, place: Home, study: str) -> None:
        """Do the same as `retrain`."""
        config, data = self.configs[study], self.data[study]
        with guarded(place.storage):
            studies, (found,) = results.opened(place.storage, [study])
            best = retraining._best(found, 1)
            with studies.lease(config.name, "retrain"):
                check_same(studies, found, config, data)
                settle(found, studies.own_folder(config.name), studies.place)
                again = retraining._companion(studies, found, config, data)
                supply = SeedSupply(config, found, again, best, 3, studies)
                judge = SeedJudge(supply, data, _silenced(), Silent(), StopSignal())
                _begun(judge)
                judge.conclude()
                summarised(found, again)

    def _mlflow(self, place: Home) -> str:
        shutil.copyfile(self.home.folder / "mlflow.db", place.folder / "mlflow.db")
        return place.tracking_uri


def _silenced() -> Tracker:
    """Send nothing to MLflow: that takes most of a second."""
    tracker = Tracker(MlflowRuns("http://127.0.0.1:9"), note=str)
    tracker.abandon()
    return tracker


def _begun(judge: StudyJudge) -> None:
    """Do what a judge does before any training."""
    if judge.has_work():
        judge.supply.candidates("high")
        for _ in range(3):
            judge.next(0)
    judge.places[0] = Place(None, "cpu", 1)
    judge.progressed(Progressed((), ()), 0)
    judge.counts()
