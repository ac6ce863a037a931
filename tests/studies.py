"""Small studies on tiny bases, run in this process or as the real program."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import yaml

import peftsweep
from peftsweep.sweep import SweepResult
from tests.tiny import tiny_model, tiny_rows, write

ROOT = Path(__file__).parents[1]
LABELS = ["anger", "joy", "sadness"]


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
            "model": {"id": str(self.folder / "base")},
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

    def start(self, *words: str) -> subprocess.Popen[str]:
        """The real program, running in this folder."""
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def runs(self) -> list[mlflow.entities.Run]:
        """All of MLflow's runs, parents too."""
        client = mlflow.MlflowClient(tracking_uri=self.tracking_uri)
        return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))

    def adapter(self, trial: int, study: str = "small") -> Path:
        return self.folder / "artifacts" / study / f"trial-{trial:04d}" / "adapter" / "adapter_model.safetensors"

    def checkpoints(self, trial: int, study: str = "small") -> list[Path]:
        return sorted((self.folder / "artifacts" / study / f"trial-{trial:04d}").glob("checkpoint-*"))


def home(folder: Path, architecture: str = "bert", rows: int = 48) -> Home:
    folder.mkdir(exist_ok=True)
    tiny_model(folder / "base", architecture)
    write(folder / "train.csv", tiny_rows(LABELS, rows, 1, single="label"))
    write(folder / "dev.csv", tiny_rows(LABELS, 24, 2, single="label"))
    return Home(folder)


def until(true: Callable[[], object], process: subprocess.Popen[str], seconds: float = 180) -> None:
    """Wait for something that the process does."""
    end = time.monotonic() + seconds
    while not true():
        if process.poll() is not None:
            raise AssertionError(f"it ended too early: {process.communicate()}")
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)
