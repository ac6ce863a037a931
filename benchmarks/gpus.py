"""What a second GPU of the same machine is worth to a study: by the command line, with one worker and with two.

    python benchmarks/gpus.py --train train.tsv --validation dev.tsv [--part scaling pruned …] [--set KEY=VALUE …]

scaling  each study without pruning, with one worker and with two
pruned   the same with the study file's pruner
pair     two studies at once on two workers, and one after the other on one
kill     a study on two workers, one of which is killed (-9) in mid-sweep
loops    the rival: eight plain loops of stock peft at once, four on each GPU

For each run a JSON object goes to stdout: seconds of the whole command, from its start to its end; the steady rate,
which is the samples trained between 20 and 80 % of all samples by the time that took, by the recorded evaluations;
trials by state, and how many were lost, have the number of another, or were resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from throughput import Setup, machine, need_gpu, processes, say

from peftsweep.config import load
from peftsweep.storage import Studies, TrialRecord

TRIALS = {"lora-gemma3-270m": 80, "lora-smollm2": 160}
PARTS = ("scaling", "pruned", "pair", "kill", "loops")


def sweep(
    studies: Sequence[str], trials: int, workers: int, settings: Sequence[str], during: Callable[[Path], object] | None
) -> dict[str, Any]:
    """Run studies from the beginning by the command line.

    Args:
        during: called in a thread of its own, with the working folder, while the command runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        storage = f"sqlite:///{folder}/studies.db"
        command = [sys.executable, "-m", "peftsweep", "run", "--workers", str(workers), "--trials", str(trials)]
        command += ["--storage", storage, "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
        command += [part for study in studies for part in ("--study", study)]
        command += [part for setting in settings for part in ("--set", setting)]
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
            assert running.stdout is not None
            if during is not None:
                threading.Thread(target=during, args=[Path(folder)], daemon=True).start()
            said = []
            for line in running.stdout:
                said.append(line.strip())
                say(f"{time.perf_counter() - began:7.1f} {said[-1]}")
        took = time.perf_counter() - began
        if running.returncode != 0:
            raise RuntimeError(said[-1] if said else f"exit status {running.returncode}")
        found = Studies(storage)
        rows = [of_study(study, found.load(study).records(), trials, settings) for study in studies]
        return {"workers": workers, "command_seconds": round(took, 1), "studies": rows}


def of_study(study: str, trials: Sequence[TrialRecord], wanted: int, settings: Sequence[str]) -> dict[str, Any]:
    """What a study came to."""
    batch = load(study, settings).train.batch_size
    numbers = [trial.number for trial in trials]
    return {
        "study": study,
        **Counter(trial.state.value for trial in trials),
        "lost": wanted - sum(trial.state.finished for trial in trials),
        "twice": len(numbers) - len(set(numbers)),
        "resumed": sum(bool(trial.pauses) for trial in trials),
        "workers_used": len({trial.worker for trial in trials}),
        "steady_samples_per_second": round(steady_rate(trials, batch)),
        "best": round(max(trial.value or 0.0 for trial in trials), 4),
    }


def steady_rate(trials: Sequence[TrialRecord], batch: int) -> float:
    """Samples per second of all trials together, between 20 and 80 % of all their samples. Between two evaluations a
    trial is taken to train evenly."""
    moments = np.array(sorted({each.at for trial in trials for each in trial.evaluations if each.at}), dtype=float)
    if len(moments) < 3:
        return 0.0
    whole = np.zeros(len(moments))
    for trial in (trial for trial in trials if trial.evaluations and trial.began):
        at = [float(trial.began or 0), *(float(each.at or 0) for each in trial.evaluations)]
        whole += np.interp(moments, at, [0.0, *(float(each.step * batch) for each in trial.evaluations)])
    low, high = (float(np.interp(share * whole[-1], whole, moments)) for share in (0.2, 0.8))
    return 1000 * 0.6 * float(whole[-1]) / max(1.0, high - low)


def kill_one(folder: Path) -> None:
    """Kill one worker's process once a third of the evaluations is there."""
    (study,) = TRIALS.keys() & {"lora-smollm2"}
    wanted, begun = TRIALS[study] * 2, time.perf_counter()
    while time.perf_counter() - begun < 500:
        time.sleep(1)
        try:
            made = sum(len(t.evaluations) for t in Studies(f"sqlite:///{folder}/studies.db").load(study).records())
        except Exception:  # it is not there yet
            continue
        if made >= wanted and (found := worker_processes()):
            say(f"killing worker process {found[0]} after {made} evaluations")
            os.kill(found[0], signal.SIGKILL)
            return


def worker_processes() -> list[int]:
    """Processes of Ray's workers that train."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if name.startswith("ray::") and "IDLE" not in name:
            found.append(int(entry.parent.name))
    return sorted(found)


def runs(parts: Sequence[str], settings: Sequence[str], studies: Sequence[str]) -> Any:
    """Each run, as what is printed of it."""
    unpruned = [*settings, "search.pruner=null"]
    for part in parts:
        for study in studies if part in ("scaling", "pruned") else ():
            for workers in (1, 2):
                own = unpruned if part == "scaling" else settings
                yield {"part": part} | sweep([study], TRIALS[study], workers, own, None)
        if part == "pair":
            pair = ["lora-smollm2", "ia3-smollm2"]
            for workers in (1, 2):
                yield {"part": part} | sweep(pair, 40, workers, unpruned, None)
        if part == "kill":
            for during in (None, kill_one):
                yield {"part": part, "killed": during is not None} | sweep(
                    ["lora-smollm2"], TRIALS["lora-smollm2"], 2, unpruned, during
                )
        if part == "loops":
            for name in ("135m", "1b"):
                setup = Setup(name, seconds=12.0)
                yield {"part": part, "base": name} | processes(setup, gpus=torch.cuda.device_count())


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--study", nargs="+", choices=list(TRIALS), default=list(TRIALS))
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `peftsweep run`")
    options = parser.parse_args()
    need_gpu()
    data = [f"data.train={options.train.resolve()}", f"data.validation={options.validation.resolve()}"]
    print(json.dumps(machine() | {"gpus": torch.cuda.device_count()}), flush=True)
    for row in runs(options.part, [*data, *options.set], options.study):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
