"""How is a running sweep reported in lines of text?"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftsweep.progress.display import EndedTrial, Opened, SweepStatus, WorkerStatus
from peftsweep.progress.formats import amount, duration, gib, hyperparameters, score
from peftsweep.scores import label
from peftsweep.trial_state import TrialState

if TYPE_CHECKING:
    from peftsweep.engine import SlotStatus
    from peftsweep.workers import Memory


class BestSoFar:
    """The best score so far of each study, which decides whether a finished trial is reported as the best."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        self._objectives: dict[str, str] = {}

    def open(self, what: Opened) -> None:
        self._objectives[what.study] = what.objective

    def objective(self, study: str) -> str:
        """The score by which a study's trials are compared. A study that runs alone is called `""`."""
        alone = next(iter(self._objectives.values()), "macro_f1")
        return self._objectives.get(study, alone)

    def update(self, status: SweepStatus) -> None:
        """Remember the best trial, which may be from an earlier run."""
        if status.best is not None:
            self._values[status.study] = max(self._value(status.study), status.best[1])

    def is_beaten_by(self, trial: EndedTrial) -> bool:
        """Whether a trial is the new best, which is then remembered."""
        if trial.state != TrialState.COMPLETE or trial.value is None or trial.value <= self._value(trial.study):
            return False
        self._values[trial.study] = trial.value
        return True

    def _value(self, study: str) -> float:
        return self._values.get(study, -math.inf)


def header(what: Opened) -> list[tuple[str, str]]:
    """What was loaded, as pairs of a name and a text. Each of several workers has its own line: `worker_loaded`."""
    low, high = what.trainable
    trained = amount(low) if low == high else f"{amount(low)} to {amount(high)}"
    rows = " · ".join(f"{count:,} {split}" for split, count in what.rows.items())
    memory = [("memory", planned(what.memory))] if what.memory is not None and what.alone else []
    device, at_once = (f" on {what.device}", f" · {what.slots} at a time") if what.alone else ("", "")
    return [
        ("study", f"{what.study}: {what.method} on {what.model}"),
        ("model", f"{amount(what.parameters)} parameters, {trained} trained per trial · {what.dtype}{device}"),
        ("rows", rows),
        ("trials", f"{what.done} of {what.total} done{at_once}"),
        *memory,
        *([("score", f"{label(what.objective)}: a threshold for each label")] if "tuned" in what.objective else []),
        ("storage", f"{what.storage} · {what.tracker}: {what.tracking}"),
    ]


def worker_loaded(number: int, slots: int, place: str, memory: Memory | None) -> str:
    """`worker 1: 40 slots on cuda:1 of b.example · 61.2 of 79.1 GiB planned`"""
    plan = "" if memory is None else f" · {gib(memory.planned)} of {gib(memory.whole)} GiB planned"
    return f"worker {number}: {slots} slot{'s' * (slots > 1)} on {place}{plan}"


def planned(memory: Memory) -> str:
    """`plan 61.2 of 79.1 GiB: 40 slots, 32,768 tokens at once`"""
    of = f"{gib(memory.planned)} of {gib(memory.whole)} GiB"
    return f"plan {of}: {memory.slots} slots, {memory.tokens:,} tokens at once"


def peak_memory(memory: Memory, taken: int) -> str:
    """`memory: peak 58.4 of 79.1 GiB, planned 61.2`"""
    return f"memory: peak {gib(taken)} of {gib(memory.whole)} GiB, planned {gib(memory.planned)}"


def ended(trial: EndedTrial, *, objective: str, best: bool = False) -> str:
    """`trial 7 complete · macro-F1 0.812 (best) · all 189 steps · 14s · lr 3.1e-4 rank 16`

    The score is that of the trial's best evaluation. A trial may be pruned later, by a score that was lower.
    """
    own = "its best " if trial.state == TrialState.PRUNED else ""
    scored = "" if trial.value is None else f"{own}{label(objective)} {score(trial.value)}{' (best)' * best}"
    parts = [
        scored,
        trial.reason.removeprefix(f"{trial.state} "),
        duration(trial.seconds),
        hyperparameters(trial.params),
    ]
    return _named(trial.study, " · ".join([f"trial {trial.number} {trial.state}", *filter(None, parts)]))


def summary(status: SweepStatus, objective: str, steps: str = "") -> str:
    """`5 of 12 trials done · best macro-F1 0.812 (trial 3) · 2m10s left · 4 running · 412 samples/s`

    The best is that of a trial that still runs, `(trial 8, running)`, if it is ahead of all complete ones. A narrow
    terminal cuts off the end, which the lines of the workers tell as well.

    Args:
        steps: see `steps`.
    """
    running, at_work = status.running, sum(bool(worker.running) for worker in status.workers)
    on = f" on {at_work} workers" if at_work > 1 else ""
    parts = [f"{status.done} of {status.total} trials done"]
    ahead = [(slot.best, f"{slot.trial}, running") for slot in running if slot.best is not None]
    complete = [] if status.best is None else [(status.best[1], str(status.best[0]))]
    if ahead or complete:
        value, trial = max([*complete, *ahead], key=lambda each: each[0])
        parts.append(f"best {label(objective)} {score(value)} (trial {trial})")
    if status.eta is not None and math.isfinite(status.eta):
        parts.append(f"{duration(status.eta)} left")
    parts += [f"{len(running):,} running{on}", *filter(None, [steps])]
    if rate := sum(slot.rate for slot in running):
        parts.append(f"{rate:,.0f} samples/s")
    return _named(status.study, " · ".join(parts))


def _named(study: str, line: str) -> str:
    """The line with the name of its study, if there are several."""
    return f"{study}: {line}" if study else line


def steps(running: Sequence[SlotStatus]) -> str:
    """`step 63 of 189, evaluation 2 of 6` if all running trials agree; else sums over them: `252 of 756 steps, …`."""
    if not running:
        return ""
    counts = {(slot.step, slot.steps, slot.evaluated, slot.evaluations) for slot in running}
    if len(counts) == 1:
        step, whole, made, evaluations = counts.pop()
        return f"step {step:,} of {whole:,}, evaluation {made} of {evaluations}"
    step, whole = sum(slot.step for slot in running), sum(slot.steps for slot in running)
    made, evaluations = sum(slot.evaluated for slot in running), sum(slot.evaluations for slot in running)
    return f"{step:,} of {whole:,} steps, {made} of {evaluations} evaluations"


def slot_row(slot: SlotStatus) -> tuple[str, ...]:
    """A slot's cells: slot, trial, step, loss, last and best score, samples per second."""
    if slot.trial is None:
        return (str(slot.slot), "-", "", "", "", "", "")
    step, loss = f"{slot.step:,} of {slot.steps:,}", "" if slot.loss is None else f"{slot.loss:.3f}"
    return (str(slot.slot), str(slot.trial), step, loss, score(slot.last), score(slot.best), f"{slot.rate:,.0f}")


def worker_row(worker: WorkerStatus, study: str) -> tuple[str, ...]:
    """A worker's cells: number, slots with a trial, samples per second, study if there are several, device and machine.
    A narrow terminal shows the first ones."""
    slots = f"{len(worker.running)} of {len(worker.slots)} slots"
    place = worker.device if worker.node is None else f"{worker.device} of {worker.node}"
    return (f"worker {worker.number}", slots, f"{worker.rate:,.0f} samples/s", *filter(None, [study]), place)


def time_spent(whole: float, trained: tuple[float, float], seconds: Mapping[str, float], workers: int = 1) -> str:
    """`time: 31m02s in this run · starting 1.1% · training 90.2% · evaluation 7.4% · checkpoints 0.5% · ending 0.2% ·
    everything else 0.6%`

    `status` adds up the trials' own times, of all runs.

    Args:
        whole: seconds since the command began.
        trained: when the first worker began to train, and when the last one ended, in seconds since the command began.
        seconds: by kind of work, of all workers together. Several workers have their mean.
    """
    begun, ended = trained
    spent = {"starting": begun}
    spent |= {name: seconds.get(name, 0.0) / max(1, workers) for name in ("training", "evaluation", "checkpoints")}
    spent |= {"ending": whole - ended}
    tenths = {name: round(1000 * part / whole) for name, part in spent.items()}  # of a percent
    tenths["everything else"] = max(0, 1000 - sum(tenths.values()))  # each is rounded
    of = f", of {workers} workers the mean" if workers > 1 else ""
    shares = (f"{name} {share / 10:.1f}%" for name, share in tenths.items())
    return " · ".join([f"time: {duration(whole)} in this run{of}", *shares])


def time_is_over(limit: float, left: int) -> str:
    """`the time limit of 2h00m (--timeout) is over: 12 trials are left; to go on, give the same command again`"""
    trials = "1 trial is" if left == 1 else f"{left:,} trials are"
    return (
        f"the time limit of {duration(limit)} (--timeout) is over: {trials} left; to go on, give the same command again"
    )


def sweep_result(
    study: str,
    counts: Mapping[str, int],
    best: tuple[int, float] | None,
    adapter: str | None,
    objective: str,
) -> str:
    """`demo: 8 complete, 4 pruned · best macro-F1 0.812 (trial 7) · artifacts/demo/trial-0007/adapter`

    A copied study's best trial may have its adapter elsewhere: then no folder is named.
    """
    parts = [f"{study}: " + (", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no trials")]
    if best is not None:
        parts.append(f"best {label(objective)} {score(best[1])} (trial {best[0]})")
    if adapter is not None:
        parts.append(adapter if _is_there(adapter) else "its adapter is not there")
    return " · ".join(parts)


def next_step(study: str, adapter: str | None) -> str:
    """`next: peftsweep best, or peftsweep export --study demo DEST`

    Args:
        adapter: folder of the best trial's adapter. Without it there is nothing to export.
    """
    export = f", or {shlex.join(['peftsweep', 'export', '--study', study])} DEST"
    return "next: peftsweep best" + (export if _is_there(adapter) else "")


def _is_there(adapter: str | None) -> bool:
    return adapter is not None and Path(adapter).is_dir()
