"""Small studies on tiny bases, run in this process or as the real program."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import yaml

import peftsweep
from peftsweep.sweep import SweepResult
from peftsweep.tracking.mlflow_database import make_store
from tests.fork_server import Program
from tests.programs import lacking
from tests.tiny import tiny_model, tiny_rows, write

ROOT = Path(__file__).parents[1]
LABELS = ["anger", "joy", "sadness"]
OFTEN = {"PEFTSWEEP_CHECKPOINT_EVERY": "0s"}  # a test does not last a minute


@dataclass(frozen=True)
class Home:
    """A working folder with a base, data and study files."""

    folder: Path

    @property
    def storage(self) -> str:
        return f"sqlite:///{self.folder}/studies.db"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def study(self, name: str = "small", **changes: Any) -> Path:
        """Write a study file; `train`, `space`, `search` and `data` are merged into the small one's."""
        whole: dict[str, Any] = {
            "model": {
                "id": str(self.folder / "base"),
                "dtype": "float32",
            },  # float32 gives the same scores on every CPU
            "method": "lora",
            "data": {"train": str(self.folder / "train.csv"), "validation": str(self.folder / "dev.csv")}
            | {"text": "text", "labels": "label", "max_length": 32},
            "train": {"epochs": 2, "batch_size": 8, "evals_per_epoch": 2},
            "space": {"learning_rate": {"low": 1e-3, "high": 2e-2, "log": True}, "rank": [2, 4]},
            "search": {"sampler": "random", "trials": 3, "pruner": None},
        }
        for key, value in changes.items():
            merge = isinstance(value, dict) and key in ("train", "search", "data", "model")
            whole[key] = whole[key] | value if merge else value
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(whole))
        return path

    def run(self, study: Path, **options: Any) -> SweepResult:
        options = {"storage": self.storage, "tracking_uri": self.tracking_uri} | options
        return peftsweep.run(study, **options)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "peftsweep", *words]

    def start(self, *words: str, fresh: bool = False, **env: str) -> Program:
        """Start the real program in this folder.

        Args:
            fresh: start a new Python that imports the libraries itself.
        """
        return Program(["-m", "peftsweep", *words], self.folder, OFTEN | env, fresh=fresh)

    def call(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words, **env) as process:
            out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def call_each(self, commands: Sequence[Sequence[str]]) -> list[subprocess.CompletedProcess[str]]:
        """Call the real program with each of these commands, on a terminal of 120 columns."""
        return [self.call(*words, COLUMNS="120") for words in commands]

    def runs(self) -> list[mlflow.entities.Run]:
        """MLflow's runs of studies and trials."""
        client = mlflow.MlflowClient(tracking_uri=self.tracking_uri)
        found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
        return [run for run in found if "peftsweep.kind" not in run.data.tags]

    def adapter(self, trial: int, study: str = "small") -> Path:
        return self.folder / "artifacts" / study / f"trial-{trial:04d}" / "adapter" / "adapter_model.safetensors"

    def checkpoints(self, trial: int, study: str = "small") -> list[Path]:
        return sorted((self.folder / "artifacts" / study / f"trial-{trial:04d}").glob("checkpoint-*"))


def all_of(uri: str, key: str | None = None) -> dict[str, Any]:
    """Everything that MLflow holds except run ids, keyed by trial ("parent" for the study).

    Args:
        key: the study's key; by default all studies.
    """
    client, found = mlflow.MlflowClient(tracking_uri=uri), dict[str, Any]()
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    runs = [run for run in runs if "peftsweep.kind" not in run.data.tags]
    parents = {run.info.run_id: run.data.tags for run in runs if "mlflow.parentRunId" not in run.data.tags}
    for run in runs:
        where, child = run.info.run_id, run.data.tags.get("mlflow.parentRunId")
        if key not in (None, parents[child or where]["peftsweep.study_key"]):
            continue
        own = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")}
        curves = {
            k: [(p.step, p.value, p.timestamp) for p in client.get_metric_history(where, k)] for k in run.data.metrics
        }
        files = {
            (inner.path, inner.file_size)
            for file in client.list_artifacts(where)
            for inner in (client.list_artifacts(where, file.path) if file.is_dir else [file])
        }
        times = (run.info.start_time, run.info.end_time)
        name = own.get("peftsweep.trial", "parent")
        assert name not in found, f"two runs of {name}"
        found[name] = [run.info.status, run.data.params, own, curves, files, times]
    return found


# The real program, which sends itself signals as soon as the n-th call of one function returns.
STRUCK = """
import os, sys
from importlib import import_module

place, nth, *numbers = sys.argv.pop(1).split()
module, path = place.split(":")
*owners, name = path.split(".")
owner = import_module(module)
for part in owners:
    owner = getattr(owner, part)
original, left = getattr(owner, name), int(nth)


def struck(*args, **kwargs):
    global left
    result = original(*args, **kwargs)
    left -= 1
    for number in numbers if left == 0 else ():
        os.kill(os.getpid(), int(number))
    return result


setattr(owner, name, struck)

from peftsweep.cli import main

main()
"""


def struck(place: Home, moment: str, numbers: list[int], *words: str) -> subprocess.CompletedProcess[str]:
    """Run the program, which sends itself the signals `numbers` at that moment, given as `module:function n`."""
    given = " ".join([moment, *(str(int(number)) for number in numbers)])
    with Program(["-c", STRUCK, given, *words], place.folder, OFTEN) as process:
        out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@cache
def empty_mlflow() -> bytes:
    """An empty MLflow database. MLflow takes a second or two to create it, so all tests share it."""
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder) / "mlflow.db")
        return (Path(folder) / "mlflow.db").read_bytes()


def home(folder: Path, architecture: str = "bert", rows: int = 48, *, mlflow: bool = True) -> Home:
    """A folder in which studies can run.

    Args:
        mlflow: put an empty MLflow database there; otherwise the first run creates it.
    """
    folder.mkdir(exist_ok=True)
    if mlflow:
        (folder / "mlflow.db").write_bytes(empty_mlflow())
    tiny_model(folder / "base", architecture)
    write(folder / "train.csv", tiny_rows(LABELS, rows, 1, single="label"))
    write(folder / "dev.csv", tiny_rows(LABELS, 24, 2, single="label"))
    return Home(folder)


def until(true: Callable[[], object], process: subprocess.Popen[str], seconds: float = 180) -> None:
    """Wait until a condition holds that the process brings about. Looking takes at most a fifth of a core."""
    began = time.monotonic()
    looked = began
    while not true():
        if process.poll() is not None:
            raise AssertionError(f"it ended too early: {process.communicate()}")
        now = time.monotonic()
        assert now < began + seconds, "the condition does not become true in time"
        time.sleep(max(0.01, 4 * (now - looked)))
        looked = time.monotonic()


def mount(folder: Path, size: str) -> None:
    """Mount a disk of that size; without permission to mount, the test is `lacking`."""
    _mount(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


def mount_again(folder: Path, of: Path) -> None:
    """Give a folder a second path that is no link; without permission to mount, the test is `lacking`."""
    _mount(folder, "--bind", str(of))


def _mount(folder: Path, *words: str) -> None:
    folder.mkdir()
    if subprocess.run(["mount", *words, str(folder)], capture_output=True).returncode != 0:
        lacking("the right to mount a disk or a folder", "run as root")


GRID: dict[str, Any] = {"space": {"learning_rate": [2e-3, 1e-2]}, "search": {"sampler": "grid", "trials": 2}}


def never_stopped(folder: Path) -> Home:
    """Run a sweep of `GRID` in SQLite without any interruption."""
    place = home(folder)
    assert place.run(place.study(**GRID), slots=1).counts == {"complete": 2}
    return place
