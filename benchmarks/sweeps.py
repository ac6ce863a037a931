"""Whole sweeps on a GPU, by the command line, and what the same trials would take one after another.

    python benchmarks/sweeps.py --train train.tsv --validation dev.tsv [--study lora-smollm2 …] [--model STUDY=PLACE …]

For each study a JSON object goes to stdout: seconds of the whole command, its trials, the best of them; and from the
rate of a plain loop of stock peft on the same base, texts and method, measured first, the seconds that the trials'
training (without evaluation) would take by itself, one trial at a time. A study that fails, such as one whose base is
not installed, has its error there instead, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import torch
from throughput import need_gpu, plain_loop, say, tidy
from transformers import logging

from peftsweep.config import StudyConfig, load
from peftsweep.data import load as load_data
from peftsweep.methods import METHODS
from peftsweep.models import linear_names, load_base, load_tokenizer
from peftsweep.report import ranked

STUDIES = ["lora-smollm2", "qlora-smollm2", "ia3-smollm2", "lora-minilm", "lora-gemma3-270m"]
SECONDS = 4.0  # for which the plain loop is timed


def one_at_a_time(config: StudyConfig) -> tuple[float, int]:
    """Samples per second of stock peft on this study's base, texts and method, and how many texts there are."""
    data = load_data(config.data, load_tokenizer(config.model), note=say, warn=say)
    kind = METHODS[config.method]
    base = load_base(config.model, data.task, four_bit=kind.four_bit, device=torch.device("cuda:0"))
    extra = {} if config.method == "ia3" else {"rank": 16}
    params = config.train.model_copy(update=extra)
    adapter = kind(base.model, linear_names(base.model)).peft_config(params, task_type="SEQ_CLS")
    found = plain_loop(base.model, adapter, data.train, config.train.batch_size, SECONDS)
    return found["samples_per_second"], len(data.train)


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
    row = {
        "study": config.name,
        "seconds": round(took, 1),
        **Counter(trial.state.name.lower() for trial in study.trials),
        "epochs": round(sum(epochs), 1),  # of all trials together
    }
    complete = ranked(study.trials)
    if not complete:
        return row
    best = complete[0]
    scores = {key: round(value, 4) for key, value in best.user_attrs["scores"].items()}
    return row | {"best": scores, "params": best.params}


def compared(name: str, overrides: list[str], trials: int | None) -> dict[str, Any]:
    """A study's sweep beside the same training one trial at a time."""
    file = Path(__file__).parents[1] / "sweeps" / f"{name}.yaml"
    config = load(file, overrides)
    say(f"{name}: one at a time")
    rate, rows = one_at_a_time(config)
    tidy()
    found = sweep(config, file, overrides, trials)
    alone = found["epochs"] * rows / rate
    found |= {"one_at_a_time_rate": round(rate, 1), "one_at_a_time_seconds": round(alone)}
    return found | {"times": round(alone / found["seconds"], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--study", nargs="+", default=STUDIES)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--model", action="append", default=[], metavar="STUDY=PLACE", help="a base in another place")
    options = parser.parse_args()
    need_gpu()
    logging.set_verbosity_error()
    places = dict(entry.split("=", 1) for entry in options.model)
    for name in options.study:
        overrides = [f"data.train={options.train.resolve()}", f"data.validation={options.validation.resolve()}"]
        overrides += [f"model.id={places[name]}"] if name in places else []
        try:
            row = compared(name, overrides, options.trials)
        except Exception as error:
            traceback.print_exc()
            row = {"study": name, "error": f"{type(error).__name__}: {error}"}
        tidy()
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
