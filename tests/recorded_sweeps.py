"""Sweeps as `tools/record_sweep.py` records them, told to the estimate of the time left report by report."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from peftsweep.engine import SlotStatus, StepTime
from peftsweep.storage import TrialRecord
from peftsweep.study import Halving
from peftsweep.sweep.time_left import TimeLeft
from tests.stored import frozen_trial, record

RECORDED = Path(__file__).parent / "recorded"
Recording = dict[str, Any]


def recording(name: str) -> Recording:
    found: Recording = json.loads((RECORDED / f"sweep-{name}.json").read_text(encoding="utf-8"))
    return found


def estimates(sweep: Recording) -> Iterator[tuple[float, float, float | None]]:
    """For each report: the seconds since the command began, those really left, and those estimated."""
    halving = None if sweep["halving"] is None else Halving(*sweep["halving"])
    time_left = TimeLeft(halving, sweep["validation"])
    verdicts = dict[int, dict[str, int]]()
    for report in sweep["reports"]:
        slots = [slot_status(sweep, place, slot) for place, slot in enumerate(report["slots"])]
        for trial, evaluation, kept in report["judged"]:
            verdicts.setdefault(trial, {})["kept" if kept else "dropped"] = evaluation
        verdicts |= {slot.trial: {} for slot in slots if slot.trial is not None and slot.trial not in verdicts}
        time_left.add(slots, [StepTime(ms / 1000, samples, made) for ms, samples, made in report["steps"]])
        trials = [stored(number, **found) for number, found in verdicts.items()]
        upcoming = len(sweep["trials"]) - len(verdicts)
        now, end = report["at"] / 1000, sweep["end"] / 1000
        yield now, end - now, time_left.seconds(slots, upcoming, trials)


def slot_status(sweep: Recording, place: int, slot: list[int] | None) -> SlotStatus:
    if slot is None:
        return SlotStatus(place)
    trial, step, evaluated = slot
    steps, evaluations, batch = sweep["trials"][str(trial)]
    return SlotStatus(place, trial, step, steps, evaluated=evaluated, evaluations=evaluations, batch_size=batch)


def stored(number: int, **verdicts: int) -> TrialRecord:
    found = frozen_trial(None, TrialState.RUNNING, **verdicts)
    found.number = number
    return record(found)


def modelled(fixed: float, sample: float, *, begins: float = 12.0) -> Recording:
    """The reports of `lora-smollm2` on a GPU, not recorded but worked out: 40 trials in as many slots, 6 evaluations
    each; 13 and then 4 trials go on. A text in an evaluation takes a third of its time in a step. Times scatter by
    3 %, and one step in a hundred takes 0.3 s longer.

    Args:
        fixed, sample: seconds of a step and of each of its samples.
        begins: seconds until the first step.
    """
    noise, steps, evaluations, batch, validation = random.Random(0), 1284, 6, 16, 886
    marks = [round(steps * i / evaluations) for i in range(1, evaluations + 1)]
    sweep: Recording = {"validation": validation, "halving": [3, 1], "reports": []}
    sweep["trials"] = {str(trial): [steps, evaluations, batch] for trial in range(40)}
    now, said, made, running = begins, 0.0, 0, list(range(40))
    times, judged, ended = list[list[int]](), list[list[int]](), list[int]()
    for step in range(1, steps + 1):
        seconds = (fixed + sample * batch * len(running)) * noise.gauss(1, 0.03) + 0.3 * (noise.random() < 0.01)
        evaluated, there = step in marks, running
        if evaluated:
            made += 1
            seconds += 0.05 + len(running) * validation * sample / 3
            kept = running[: len(running) // 3] if made in (1, 3) else running
            judged += [[trial, made, trial in kept] for trial in running]
            running = kept
        now += seconds
        times.append([round(seconds * 1000), batch * len(there), evaluated * len(there)])
        if now >= said + 1 or step == steps:
            slots = [[trial, step, made] if trial in there else None for trial in range(40)]
            report = {"at": round(now * 1000), "slots": slots, "steps": times[:-1], "judged": judged, "ended": ended}
            sweep["reports"].append(report)
            said, times, judged, ended = now, times[-1:], [], []
    return sweep | {"end": round(now * 1000)}
