"""Record what a sweep reports of its slots, steps and verdicts, for tests of the time left (tests/test_time_left.py).

python tools/record_sweep.py demo tests/recorded/sweep-demo.json [--set data.train=train.tsv …]    (trains the study)

The recording says when each report came, in milliseconds since this command began, and for each slot its trial, step
and number of evaluations; for each step since the last report its milliseconds, samples and evaluations; for each
verdict the trial, the evaluation and whether the trial was kept; and which trials have ended. Of each trial it has the
steps, the evaluations and the batch size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import peftsweep
from peftsweep import progress
from peftsweep.engine import Command, Evaluated, Event, Progressed, TrialEnded, Verdicts
from peftsweep.workers import LocalWorker, WorkerSpec

BEGAN = time.perf_counter()


class Recorder(LocalWorker):
    """A worker that records what it says and hears."""

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        pruner = spec.config.search.pruner
        self.recording: dict[str, Any] = {
            "study": spec.config.name,
            "device": self.device.type,
            "validation": len(spec.data.validation),
            "halving": None if pruner is None else [pruner.reduction, pruner.min_evals],
            "trials": {},
            "reports": [],
        }
        self.waiting: tuple[int, Progressed] | None = None  # until the verdicts of the same step are known
        self.undecided: list[tuple[int, int]] = []
        self.judged: list[list[int]] = []
        self.ended: list[int] = []

    def advance(self, commands: Iterable[Command]) -> list[Event]:
        commands = list(commands)
        for command in commands:
            if isinstance(command, Verdicts):
                self.judged += [[*each, kept] for each, kept in zip(self.undecided, command.keep, strict=True)]
                self.undecided = []
        self.write_down()
        events = super().advance(commands)
        for event in events:
            match event:
                case Evaluated(reports):
                    self.undecided += [(each.trial.number, each.evaluation.index) for each in reports]
                case TrialEnded(trial):
                    self.ended.append(trial.number)
                    self.recording["end"] = milliseconds()
                case Progressed():
                    self.write_down()
                    self.waiting = milliseconds(), event
        return events

    def write_down(self) -> None:
        """Add the last report to the recording."""
        if self.waiting is None:
            return
        (at, event), self.waiting = self.waiting, None
        for slot in event.slots:
            if slot.trial is not None:
                self.recording["trials"][slot.trial] = [slot.steps, slot.evaluations, slot.batch_size]
        self.recording["reports"].append(
            {
                "at": at,
                "slots": [
                    None if each.trial is None else [each.trial, each.step, each.evaluated] for each in event.slots
                ],
                "steps": [[round(each.seconds * 1000), each.samples, each.evaluations] for each in event.steps],
                "judged": self.judged,
                "ended": self.ended,
            }
        )
        self.judged, self.ended = [], []

    def close(self) -> Any:
        self.write_down()
        return super().close()


def milliseconds() -> int:
    return round((time.perf_counter() - BEGAN) * 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    given = parser.parse_args()
    recorders: list[Recorder] = []

    def start(spec: WorkerSpec) -> Recorder:
        recorders.append(Recorder(spec))
        return recorders[-1]

    study, out = Path(given.study).absolute() if Path(given.study).is_file() else given.study, given.out.absolute()
    overrides = [absolute(each) for each in given.overrides]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        peftsweep.run(study, overrides=overrides, start=start, progress=progress.for_stream(sys.stderr))
    out.write_text(json.dumps(recorders[0].recording, separators=(",", ":")) + "\n", encoding="utf-8")


def absolute(override: str) -> str:
    """The override with an absolute path, if its value is a file or folder."""
    key, _, value = override.partition("=")
    return f"{key}={Path(value).absolute()}" if Path(value).exists() else override


if __name__ == "__main__":
    main()
