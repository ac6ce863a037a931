"""Whole sweeps on a GPU, by the command line, and what the same trials would take one after another.

    python benchmarks/sweeps.py --train train.tsv --validation dev.tsv [--study lora-smollm2 …] [--model STUDY=PLACE …]

For each study a JSON object goes to stdout: seconds of the whole command, its trials, the best of them; and from the
rate of a plain loop of stock peft on the same base, texts and method, measured first, the seconds that the trials'
training (without evaluation) would take by itself, one trial at a time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import torch
from throughput import plain_loop, say
from transformers import logging

from peftsweep.config import StudyConfig, load
from peftsweep.data import load as load_data
from peftsweep.methods import METHODS
from peftsweep.models import linear_names, load_base, load_tokenizer

STUDIES = ["lora-smollm2", "qlora-smollm2", "ia3-smollm2", "lora-minilm"]
SECONDS = 4.0  # for which the plain loop is timed


def one_at_a_time(config: StudyConfig) -> float:
    """Samples per second of stock peft on this study's base, texts and method."""
    data = load_data(config.data, load_tokenizer(config.model), note=say, warn=say)
    kind = METHODS[config.method]
    base = load_base(config.model, data.task, four_bit=kind.four_bit, device=torch.device("cuda:0"))
    extra = {} if config.method == "ia3" else {"rank": 16}
    params = config.train.model_copy(update=extra)
    adapter = kind(base.model, linear_names(base.model)).peft_config(params, task_type="SEQ_CLS")
    return plain_loop(base.model, adapter, data.train, config.train.batch_size, SECONDS)["samples_per_second"]


def sweep(config: StudyConfig, file: Path, overrides: list[str], trials: int | None) -> dict[str, Any]:
    """Run it by the command line, in the folder where this was started."""
    command = [sys.executable, "-m", "peftsweep", "run", "--study", str(file)]
    command += [part for override in overrides for part in ("--set", override)]
    command += [] if trials is None else ["--trials", str(trials)]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    took = time.perf_counter() - began
    study = optuna.load_study(study_name=config.name, storage="sqlite:///studies.db")
    epochs = [
        trial.user_attrs["evaluations"][-1]["epoch"] for trial in study.trials if "evaluations" in trial.user_attrs
    ]
    best = study.best_trial
    return {
        "study": config.name,
        "seconds": round(took, 1),
        **Counter(trial.state.name.lower() for trial in study.trials),
        "epochs": round(sum(epochs), 1),  # of all trials together
        "best": {key: round(value, 4) for key, value in best.user_attrs["scores"].items()},
        "params": best.params,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--study", nargs="+", default=STUDIES)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--model", action="append", default=[], metavar="STUDY=PLACE", help="a base in another place")
    options = parser.parse_args()
    logging.set_verbosity_error()
    places = dict(entry.split("=", 1) for entry in options.model)
    for name in options.study:
        file = Path(__file__).parents[1] / "sweeps" / f"{name}.yaml"
        overrides = [f"data.train={options.train.resolve()}", f"data.validation={options.validation.resolve()}"]
        overrides += [f"model.id={places[name]}"] if name in places else []
        config = load(file, overrides)
        say(f"{name}: one at a time")
        rate = one_at_a_time(config)
        torch.cuda.empty_cache()
        found = sweep(config, file, overrides, options.trials)
        rows = sum(1 for _ in options.train.open(encoding="utf-8")) - 1
        alone = found["epochs"] * rows / rate
        row = found | {"one_at_a_time_rate": round(rate, 1), "one_at_a_time_seconds": round(alone)}
        print(json.dumps(row | {"times": round(alone / found["seconds"], 1)}), flush=True)


if __name__ == "__main__":
    main()
