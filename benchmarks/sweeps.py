"""Whole sweeps on a GPU, by the command line, and what the same trials would take one after another.

    python benchmarks/sweeps.py --train train.tsv --validation dev.tsv [--study lora-smollm2 …] [--model STUDY=PLACE …]
                                [--processes 8]

For each study a JSON object goes to stdout: seconds of the whole command, which begins anew in a folder of its own,
and of training and evaluation; its trials, the best of them; and from the rate of a plain loop of stock peft on the
same base, texts and method, measured first, the seconds that the trials' training (without evaluation) would take by
itself, one trial at a time. With --processes the rival runs, too: so many plain-loop processes at once, which each
take the next of the same trials (plain_sweep.py). A study that fails, such as one whose base is not installed, has
its error there instead, and the others go on; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from plain_sweep import plain_sweep
from throughput import WARM, machine, need_gpu, plain_loop, say, tidy
from transformers import logging

from peftsweep.config import StudyConfig, load
from peftsweep.data import load as load_data
from peftsweep.methods import METHODS
from peftsweep.models import linear_names, load_base, load_tokenizer
from peftsweep.storage import Studies, TrialRecord
from peftsweep.study.results import ranked

STUDIES = ["lora-smollm2", "qlora-smollm2", "ia3-smollm2", "lora-minilm", "lora-gemma3-270m"]
SECONDS = 20.0  # for which the plain loop is timed


def one_at_a_time(config: StudyConfig) -> tuple[float, int]:
    """Samples per second of stock peft on this study's base, texts and method, and how many texts there are."""
    found, rows = loop(config, SECONDS)
    return found["samples_per_second"], rows


def loop(config: StudyConfig, seconds: float, ready: Path | None = None) -> tuple[dict[str, float], int]:
    """A plain loop on this study's base, texts and method, and how many texts there are. See `plain_loop`."""
    data = load_data(config.data, load_tokenizer(config.model), note=say, warn=say)
    kind = METHODS[config.method]
    base = load_base(config.model, data.task, four_bit=kind.four_bit, device=torch.device("cuda:0"))
    extra = {} if config.method == "ia3" else {"rank": 16}
    params = config.train.model_copy(update=extra)
    adapter = kind(base.model, linear_names(base.model)).peft_config(params, task_type="SEQ_CLS")
    found = plain_loop(base.model, adapter, data.train, config.train.batch_size, seconds, ready, warm=WARM)
    return {"slots": 1, **found}, len(data.train)


def sweep(config: StudyConfig, file: Path, overrides: list[str], trials: int | None, drawn: Path) -> dict[str, Any]:
    """Run it by the command line, from the beginning; its trials' hyperparameters are written to the file `drawn`."""
    with tempfile.TemporaryDirectory() as folder:
        storage = f"sqlite:///{folder}/studies.db"
        command = [sys.executable, "-m", "peftsweep", "run", "--study", str(file), "--storage", storage]
        command += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
        command += [part for override in overrides for part in ("--set", override)]
        command += [] if trials is None else ["--trials", str(trials)]
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
            assert running.stdout is not None
            said = []
            for line in running.stdout:
                said.append(line.strip())
                say(said[-1])
        took = time.perf_counter() - began
        if running.returncode != 0:
            raise RuntimeError(said[-1] if said else f"exit status {running.returncode}")
        spent = next((line for line in said if line.startswith("time:")), "")
        records = Studies(storage).load(config.name).records()
        drawn.write_text(json.dumps([trial.drawn for trial in records]), encoding="utf-8")
        return row_of(config.name, records, took, spent)


def row_of(study: str, trials: Sequence[TrialRecord], took: float, spent: str) -> dict[str, Any]:
    """What a study came to.

    Args:
        took: seconds of the whole command.
        spent: the line in which it said where its time went.
    """
    epochs = [trial.evaluations[-1].epoch for trial in trials if trial.evaluations]
    training, gpu = training_seconds(spent)
    row = {
        "study": study,
        "seconds": round(took, 1),
        "time": spent,
        "training_seconds": round(training, 1),
        "gpu_seconds": round(gpu, 1),
        **Counter(trial.state.value for trial in trials),
        "epochs": round(sum(epochs), 1),  # of all trials together
    }
    complete = ranked(trials)
    if not complete:
        return row
    best = complete[0]
    scores = {key: round(value, 4) for key, value in best.scores.items()}
    return row | {"best": scores, "params": best.drawn}


def compared(name: str, overrides: list[str], trials: int | None, processes: int) -> dict[str, Any]:
    """A study's sweep beside the same training one trial at a time, and beside plain-loop processes."""
    file = Path(__file__).parents[1] / "sweeps" / f"{name}.yaml"
    config = load(file, overrides)
    say(f"{name}: one at a time")
    rate, rows = one_at_a_time(config)
    tidy()
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "trials.json"
        found = sweep(config, file, overrides, trials, drawn)
        found |= beside_one_at_a_time(found, rows, rate)
        if processes:
            say(f"{name}: {processes} plain loops")
            plain = plain_sweep(file, overrides, drawn, processes)
            found |= {"plain_loops": plain, "over_plain_loops": round(plain["seconds"] / found["seconds"], 1)}
    return found


def beside_one_at_a_time(found: dict[str, Any], rows: int, rate: float) -> dict[str, Any]:
    """What the same training takes a trial at a time.

    Args:
        rows: texts of an epoch.
        rate: samples per second of one trial by itself.
    """
    alone = found["epochs"] * rows / rate
    return {
        "one_at_a_time_rate": round(rate, 1),
        "one_at_a_time_seconds": round(alone),
        "times": round(alone / found["seconds"], 1),
        "samples_per_second": round(found["epochs"] * rows / found["training_seconds"], 1),  # of the pack, in training
    }


def training_seconds(line: str) -> tuple[float, float]:
    """Seconds of training, and of training and evaluation, by the line in which `run` says where its time went:
    `time: 1m58s · training 56.2% · evaluation 9.7% · …`."""
    (took,) = re.findall(r"^time: (?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", line)
    hours, minutes, seconds = (int(part or 0) for part in took)
    whole = 3600 * hours + 60 * minutes + seconds
    shares = {name: float(share) / 100 for name, share in re.findall(r"(\w+) ([\d.]+)%", line)}
    return whole * shares["training"], whole * (shares["training"] + shares["evaluation"])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--study", nargs="+", default=STUDIES)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--processes", type=int, default=0, help="plain-loop processes that run the same trials")
    parser.add_argument("--model", action="append", default=[], metavar="STUDY=PLACE", help="a base in another place")
    options = parser.parse_args()
    for file in (options.train, options.validation):
        if not file.is_file():
            parser.error(f"{file} is not there")
    if wrong := [entry for entry in options.model if "=" not in entry]:
        parser.error(f"--model {wrong[0]}: expected STUDY=PLACE")
    need_gpu()
    logging.set_verbosity_error()
    places = dict(entry.split("=", 1) for entry in options.model)
    print(json.dumps(machine()), flush=True)
    failed = False
    for name in options.study:
        overrides = [f"data.train={options.train.resolve()}", f"data.validation={options.validation.resolve()}"]
        overrides += [f"model.id={places[name]}"] if name in places else []
        try:
            row = compared(name, overrides, options.trials, options.processes)
        except Exception as error:
            traceback.print_exc()
            row, failed = {"study": name, "error": f"{type(error).__name__}: {error}"}, True
        tidy()
        print(json.dumps(row), flush=True)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
