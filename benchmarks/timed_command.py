"""How long does a sweep take by the command line, and what came of it? `gpus.py` measures with this."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from throughput import say

from peftsweep.config import load
from peftsweep.storage import Studies, TrialRecord

END = 20.0  # seconds for a killed command's cluster to end
LOW, HIGH = 0.3, 0.9  # shares of all samples between which a rate is steady


@dataclass(frozen=True)
class Place:
    """Where a command runs. None means all that the machine has."""

    gpu: int | None = None
    cores: frozenset[int] | None = None

    def environment(self) -> dict[str, str]:
        # A virtual machine may get its memory as it is used. By what it has at the start, Ray would end workers.
        found = os.environ | {"RAY_memory_monitor_refresh_ms": "0"}
        return found if self.gpu is None else found | {"CUDA_VISIBLE_DEVICES": str(self.gpu)}

    def confine(self) -> None:
        if self.cores is not None:
            os.sched_setaffinity(0, self.cores)


@dataclass
class TimedCommand:
    """`peftsweep run`, from the beginning.

    Attributes:
        files: of the studies.
        folder: for the databases and the artifacts.
        until: by time.monotonic(), when the command is killed.
        cut_after: number of evaluations after which it is killed: they are enough.
        kill_after: number of evaluations after which one of its workers is killed.
        began: in seconds since 1970.
    """

    files: Sequence[Path]
    workers: int
    place: Place
    folder: Path
    until: float
    cut_after: int | None = None
    kill_after: int | None = None
    began: float = 0.0

    def run(self) -> dict[str, Any]:
        """The seconds it took, and why it was cut short or failed if so."""
        words = [sys.executable, "-m", "peftsweep", "run", "--workers", str(self.workers)]
        words += ["--storage", f"sqlite:///{self.folder}/studies.db"]
        words += ["--tracking-uri", f"sqlite:///{self.folder}/mlflow.db"]
        words += [part for file in self.files for part in ("--study", str(file))]
        self.began, began = time.time(), time.monotonic()
        running = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.place.environment(),
            start_new_session=True,
            preexec_fn=self.place.confine,
        )
        said: list[str] = []
        listener = threading.Thread(target=self._listen, args=[running, said], daemon=True)
        listener.start()
        found: dict[str, Any] = {}
        while running.poll() is None and "cut" not in found:
            time.sleep(0.5)
            found |= self._interfere(running, killed="killed" in found)
        found["command_seconds"] = round(time.monotonic() - began, 1)
        if "cut" in found:
            end_all(running)
        listener.join(1.0)
        if running.returncode != 0 and "cut" not in found:
            found["error"] = " | ".join(said[-3:])
        found["slots"] = [line for line in said if " at a time" in line or " slots on " in line]
        return found

    def _listen(self, running: subprocess.Popen[str], said: list[str]) -> None:
        assert running.stdout is not None
        gpu = "" if self.place.gpu is None else f"GPU {self.place.gpu} "
        for line in running.stdout:
            said.append(line.strip())
            say(f"{gpu}{time.time() - self.began:7.1f} {said[-1]}")

    def _interfere(self, running: subprocess.Popen[str], killed: bool) -> dict[str, Any]:
        """Cut the command short or kill a worker, when it is time."""
        made = self._evaluations()
        if time.monotonic() > self.until:
            return {"cut": "no time is left", "error": "no time is left"}  # so it is not compared with those that ended
        if self.cut_after is not None and made >= self.cut_after:
            return {"cut": f"after {made} evaluations"}
        if self.kill_after is None or killed or made < self.kill_after:
            return {}
        titles = descendants(running.pid)
        workers = [process for process, title in titles.items() if title.startswith("ray::SweepWorker")]
        if not workers:
            return {}
        os.kill(workers[0], signal.SIGKILL)
        say(f"killed worker process {workers[0]} after {made} evaluations")
        return {"killed": round(time.time() - self.began, 1), "evaluations_at_kill": made}

    def _evaluations(self) -> int:
        """How many are in the database, of all studies together."""
        file = f"file:{self.folder}/studies.db?mode=ro"
        with suppress(sqlite3.Error), closing(sqlite3.connect(file, uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM trial_intermediate_values").fetchone()[0])
        return 0


def end_all(running: subprocess.Popen[str]) -> None:
    """Kill a command, and wait for its cluster to end."""
    below = descendants(running.pid)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    until = time.monotonic() + END
    while (left := set(below) & living().keys()) and time.monotonic() < until:
        time.sleep(0.2)
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def descendants(process: int) -> dict[int, str]:
    """The living processes below a process, and their titles."""
    parents = living()
    found, new = dict[int, str](), {process}
    while new := {child for child, parent in parents.items() if parent in new}:
        for child in new:
            with suppress(OSError):
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
    return found


def living() -> dict[int, int]:
    """All processes, and their parents."""
    found = dict[int, int]()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(place.name)] = int(parent)
    return found


# What came of it ------------------------------------------------------------------------------------------------------


def figures(command: TimedCommand, trials: int) -> dict[str, Any]:
    """What a command came to, by its databases. Moments are in seconds from its start.

    Args:
        trials: number of trials that were wanted.
    """
    studies = Studies(f"sqlite:///{command.folder}/studies.db")
    records = {file.stem: studies.load(file.stem).records() for file in command.files}
    batch = {file.stem: load(file).train.batch_size for file in command.files}
    every = [trial for of_study in records.values() for trial in of_study]
    made = [each.at for trial in every for each in trial.evaluations]
    pauses = [(on - saved) / 1000 for trial in every for saved, on in trial.pauses]

    def moment(which: Callable[[list[int]], int], moments: list[int | None]) -> float | None:
        known = [each for each in moments if each]
        return round(which(known) / 1000 - command.began, 1) if known else None

    return {
        "trials": dict(Counter(trial.state.value for trial in every)),
        "lost": trials - sum(trial.state.finished for trial in every),
        "evaluations": dict(sorted(Counter(str(len(trial.evaluations)) for trial in every).items())),
        "samples": sum(t.evaluations[-1].step * batch[s] for s in records for t in records[s] if t.evaluations),
        "steady_samples_per_second": {s: round(steady_rate(records[s], batch[s])) for s in records},
        "first_trial": moment(min, [trial.began for trial in every]),
        "first_evaluation": moment(min, made),
        "last_evaluation": moment(max, made),
        "last_trial": moment(max, [trial.ended for trial in every]),
        "trained_by": dict(Counter(trial.worker or "this process" for trial in every)),
        "resumed": sum(bool(trial.pauses) for trial in every),
        "pauses": [round(min(pauses), 1), round(max(pauses), 1)] if pauses else [],
        "mlflow_runs": mlflow_runs(command.folder / "mlflow.db"),
        "values": {s: {str(t.number): t.value for t in records[s] if t.value is not None} for s in records},
    }


def mlflow_runs(file: Path) -> dict[str, int]:
    """MLflow's runs by status: of each trial, each study, and their page."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        return dict(database.execute("SELECT status, count(*) FROM runs GROUP BY status").fetchall())
    return {}


def steady_rate(trials: Sequence[TrialRecord], batch: int) -> float:
    """Samples per second of all trials together, between two shares of all their samples. Between two evaluations a
    trial is taken to train evenly."""
    moments = np.array(sorted({each.at for trial in trials for each in trial.evaluations if each.at}), dtype=float)
    if len(moments) < 3:
        return 0.0
    whole = np.zeros(len(moments))
    for trial in (trial for trial in trials if trial.evaluations and trial.began):
        at = [float(trial.began or 0), *(float(each.at or 0) for each in trial.evaluations)]
        whole += np.interp(moments, at, [0.0, *(float(each.step * batch) for each in trial.evaluations)])
    first, last = (float(np.interp(share * whole[-1], whole, moments)) for share in (LOW, HIGH))
    return 1000 * (HIGH - LOW) * float(whole[-1]) / max(1.0, last - first)
