"""How long the comparison of many studies takes, and how large its page is. No GPU, no model.

    python benchmarks/comparison.py [--studies 20] [--trials 1000] [--rows 1000] [--keep FOLDER]

Makes a storage of studies as sweeps leave them, through Optuna and with files of predictions, and prints a JSON line:
seconds in which the page is drawn (the storage read, everything computed, the file written), seconds of the whole
command `peftsweep compare` with its imports and MLflow, and the page's size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from safetensors.numpy import save_file

from peftsweep import comparison, dashboard
from peftsweep.storage import Studies
from peftsweep.study.trial_files import CLASSES, PREDICTIONS, trial_folder
from peftsweep.task import Task

LABELS = (
    "anger",
    "anticipation",
    "disgust",
    "fear",
    "joy",
    "love",
    "optimism",
    "pessimism",
    "sadness",
    "surprise",
    "trust",
)
SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "rank": {"low": 4, "high": 64, "log2": True},
    "dropout": {"low": 0.0, "high": 0.3},
    "weight_decay": {"low": 1e-4, "high": 0.1, "log": True},
    "scheduler": ["linear", "cosine", "constant_with_warmup"],
}
DISTRIBUTIONS = {
    "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
    "log2_rank": IntDistribution(2, 6),
    "dropout": FloatDistribution(0.0, 0.3),
    "weight_decay": FloatDistribution(1e-4, 0.1, log=True),
    "scheduler": CategoricalDistribution(["linear", "cosine", "constant_with_warmup"]),
}
EVALUATIONS = 6
DATA = {"train": "train.tsv", "validation": "dev.tsv", "text": "text", "labels": list(LABELS)}


def fill(
    storage: str,
    name: str,
    *,
    trials: int,
    rows: int = 1000,
    seed: int = 0,
    skill: float = 1.0,
    objective: str = "macro_f1",
) -> optuna.Study:
    """A study of the storage as a sweep would leave it, its best trial's files beside it.

    Args:
        seed: of the study's own trials. All studies have the same validation rows.
        skill: how far the best trial's logits are from noise.
    """
    studies = Studies(storage)
    study = studies.create(name)
    method = ("lora", "qlora", "ia3")[seed % 3]
    config = {
        "model": {"id": f"org/base-{seed % 5}"},
        "method": method,
        "data": DATA,
        "space": SPACE,
    }
    attrs = {
        "experiment": "tweets · multi-label · f00d00",
        "fingerprint": "f00d00",
        "metric": objective,
        "labels": list(LABELS),
        "described": {"device": "cuda:0"},
        "config": config,
    }
    for key, value in attrs.items():
        study.set_user_attr(key, value)
    labels, logits = _predictions(rows, seed, skill)
    task = Task("multi-label", LABELS)
    scores = task.scores(logits, labels)
    rng = np.random.default_rng(seed)
    best = trials // 2
    for number in range(trials):
        study.add_trial(_trial(rng, number, scores if number == best else None, scores["macro_f1"], objective))
    folder = trial_folder(studies.artifacts / name, best)
    folder.mkdir(parents=True)
    save_file({"logits": logits, "labels": labels}, folder / PREDICTIONS)
    (folder / CLASSES).write_text(json.dumps(task.per_class(logits, labels)))
    return study


def _predictions(rows: int, seed: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    labels = (np.random.default_rng(1).random((rows, len(LABELS))) < 0.3).astype(np.float32)
    noise = np.random.default_rng(1000 + seed).normal(size=labels.shape)
    return labels, (skill * (2 * labels - 1) + noise).astype(np.float32)


def _trial(
    rng: np.random.Generator, number: int, scores: dict[str, float] | None, high: float, objective: str
) -> FrozenTrial:
    """A trial; one that is not the best stays below it, and is pruned two times out of three."""
    params = {
        "learning_rate": float(10 ** rng.uniform(-5, -2)),
        "log2_rank": int(rng.integers(2, 7)),
        "dropout": float(rng.uniform(0, 0.3)),
        "weight_decay": float(10 ** rng.uniform(-4, -1)),
        "scheduler": ("linear", "cosine", "constant_with_warmup")[rng.integers(3)],
    }
    pruned = scores is None and rng.random() < 2 / 3
    count = int(rng.integers(1, EVALUATIONS)) if pruned else EVALUATIONS
    peak = high * (1 - 0.02 * abs(np.log10(params["learning_rate"]) + 3.5) - float(rng.uniform(0.01, 0.05)))
    if scores is None:
        scores = {"macro_f1": peak, "micro_f1": peak + 0.1, "accuracy": peak / 2, "jaccard": peak / 2, "loss": 0.3}
        scores |= {objective: peak}
    rise = 1 - 0.5 ** np.arange(1, EVALUATIONS + 1)
    curve = (scores["macro_f1"] * rise / rise[-1] * (1 + 0.01 * rng.normal(size=EVALUATIONS))).clip(0, 1)[:count]
    began = datetime(2026, 1, 1) + timedelta(seconds=20 * (number // 8))
    sampled = {"rank" if name == "log2_rank" else name: value for name, value in params.items()}
    made = create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=None if pruned else scores[objective],
        params=params,
        distributions=DISTRIBUTIONS,
        intermediate_values={i + 1: float(value) for i, value in enumerate(curve)},
        user_attrs={
            "params": sampled | {"rank": 2 ** int(params["log2_rank"])},
            "evaluations": [
                {"index": i + 1, "step": 100 * (i + 1), "epoch": 0.5 * (i + 1), "train_loss": 0.4}
                | {"learning_rate": params["learning_rate"], "scores": {**scores, "macro_f1": float(value)}}
                for i, value in enumerate(curve)
            ],
            "seed": number,
            "seconds": 3.0 * count,
            "parameters": 4096 * 2 ** int(params["log2_rank"]),
            "scores": {} if pruned else scores,
            "step": 100 * count,
            "reason": "",
        },
    )
    made.datetime_start, made.datetime_complete = began, began + timedelta(seconds=3 * count)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=1000, help="validation rows")
    parser.add_argument("--keep", type=Path, help="a folder that keeps storage and page; studies that are there stay")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = given.keep or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{home}/studies.db"
        for i in range(given.studies):
            name = f"study-{i:02d}"
            if given.keep and name in Studies(storage).names():
                continue
            print(f"study {i + 1} of {given.studies}", file=sys.stderr)
            fill(storage, name, trials=given.trials, rows=given.rows, seed=i, skill=0.7 + 0.02 * i)
        began, busy = time.perf_counter(), time.process_time()
        (home / "page.html").write_text(dashboard.page(comparison.compare(storage).as_dict()), encoding="utf-8")
        drawn, busy = time.perf_counter() - began, time.process_time() - busy
        began = time.perf_counter()
        command = [sys.executable, "-m", "peftsweep", "compare", "--storage", storage]
        subprocess.run([*command, "--tracking-uri", f"sqlite:///{home}/mlflow.db"], check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - began
        size = (home / "artifacts" / "comparison.html").stat().st_size
    row = {"studies": given.studies, "trials": given.trials, "rows": given.rows}
    print(
        json.dumps(
            row
            | {
                "drawn": round(drawn, 1),
                "of_it_cpu": round(busy, 1),
                "command": round(seconds, 1),
                "megabytes": round(size / 1e6, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
