"""Workers that replay learning curves instead of training: the sweep cannot tell, and only its own work takes time.

A worker has one slot. Without `seconds` it answers every call at once; with `seconds` a trial takes that long, in real
time. The curves are recorded ones (a file of `{evaluations: [{macro_f1, micro_f1, accuracy, loss, …}]}`, taken in
turns), or made by `modelled`.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from peftsweep.config import DataConfig, StudyConfig
from peftsweep.data import Dataset
from peftsweep.data.dataset import Split
from peftsweep.engine import (
    Command,
    Evaluated,
    Evaluation,
    Event,
    Idle,
    Progressed,
    Report,
    Result,
    SlotStatus,
    StartTrials,
    StepTime,
    Stop,
    Trial,
    TrialEnded,
    TrialsWanted,
    Verdicts,
)
from peftsweep.methods import METHODS
from peftsweep.models import BaseInfo, linear_names
from peftsweep.task import Task
from peftsweep.trial_state import TrialState
from peftsweep.workers import Answer, Failed, Lost, PackInfo, Usage

EVALUATIONS = 6
LABELS = ("anger", "joy", "sadness")
ROWS = 32  # of the validation split
Curve = list[dict[str, float]]  # scores at each evaluation


@cache
def modelled(number: int) -> Curve:
    """The curve of a trial. Macro-F1 rises towards the trial's own end, drawn from a beta distribution, by half
    of the rest per evaluation, with noise of 0.01."""
    draw = np.random.default_rng(number)
    end = draw.beta(4, 2)
    shares = [min(1.0, max(0.0, end * (1 - 0.5**i) + draw.normal(0, 0.01))) for i in range(1, EVALUATIONS + 1)]
    return [
        {"macro_f1": share, "micro_f1": share, "accuracy": share, "jaccard": share, "loss": 1.5 - share}
        for share in shares
    ]


def recorded(file: Path) -> list[Curve]:
    """Whole curves from a file, with as many evaluations as a simulated trial has."""
    whole = [trial["evaluations"] for trial in json.loads(file.read_text(encoding="utf-8"))]
    longest = max(map(len, whole))
    names = ("macro_f1", "micro_f1", "accuracy", "jaccard", "loss")
    places = [round((i + 1) * longest / EVALUATIONS) - 1 for i in range(EVALUATIONS)]
    return [
        [{name: float(points[place][name]) for name in names} for place in places]
        for points in whole
        if len(points) == longest
    ]


def dataset() -> Dataset:
    """A few rows, so that there is something to score."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, len(LABELS), ROWS)
    split = Split(("text",) * ROWS, labels, tuple(np.arange(4) for _ in range(ROWS)))
    return Dataset(Task("single-label", LABELS), split, split, None, "replayed rows", "replayed validation rows")


def study(name: str, sampler: str = "random", halving: bool = False) -> StudyConfig:
    data = DataConfig(train="train.csv", validation="dev.csv", text="text", labels="topic")
    return StudyConfig.model_validate(
        {
            "name": name,
            "model": {"id": "/replayed/base"},
            "method": "lora",
            "data": data,
            "train": {"epochs": EVALUATIONS, "evals_per_epoch": 1},
            "space": {
                "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
                "rank": {"low": 4, "high": 64, "log2": True},
                "dropout": {"low": 0.0, "high": 0.3},
                "scheduler": ["linear", "cosine", "constant_with_warmup"],
            },
            "search": {"sampler": sampler, "pruner": {"reduction": 3, "min_evals": 1} if halving else None},
        }
    )


class Replayed:
    """A pool of such workers.

    Args:
        workers: their number.
        seconds: that a trial takes; 0 for no time at all.
        curves: recorded ones; by default `modelled`.
        evaluations: number in a trial, at most `EVALUATIONS`.

    Attributes:
        ended: when each trial left its slot, in the order in which they did.
        judged: number of evaluations that got a verdict.
    """

    def __init__(
        self, workers: int, seconds: float = 0.0, curves: Sequence[Curve] = (), evaluations: int = EVALUATIONS
    ) -> None:
        self.seconds, self.curves, self.evaluations = seconds, curves, evaluations
        self.idle = set(range(workers))
        self.due: list[tuple[float, int, int, Any]] = []  # a heap: when an answer comes, its place, worker and value
        self.places = itertools.count()
        self.slots: dict[int, tuple[Trial, int] | None] = dict.fromkeys(range(workers))  # and its last evaluation
        self.reported: dict[int, float] = {}  # when a worker last sent its progress
        self.began: dict[int, float] = {}
        self.ended: list[float] = []
        self.judged = 0
        self.base = BaseInfo(
            source="/replayed/base",
            revision=None,
            parameters=1,
            four_bit=False,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        model = BertForSequenceClassification(
            BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=16)
        )
        self.method = METHODS["lora"](model, linear_names(model))
        layer = self.method.linears[0]
        self.weights = {f"{layer}:A": np.ones((4, 8), np.float32), f"{layer}:B": np.ones((8, 4), np.float32)}
        self.logits = np.random.default_rng(1).normal(size=(ROWS, len(LABELS))).astype(np.float32)

    # The pool ---------------------------------------------------------------------------------------------------------

    def size(self) -> int:
        return len(self.slots)

    def free(self) -> Sequence[int]:
        return sorted(self.idle)

    def node(self, worker: int) -> str | None:
        return f"node-{worker // 16}"

    def call(self, worker: int, name: str, *arguments: Any) -> None:
        wait, value = self._answer(worker, name, *arguments)
        heapq.heappush(self.due, (time.monotonic() + wait, next(self.places), worker, value))
        self.idle.discard(worker)

    def wait(self, seconds: float) -> Sequence[Answer | Failed | Lost]:
        if not self.due:
            return []
        time.sleep(max(0.0, min(seconds, self.due[0][0] - time.monotonic())))
        found = []
        while self.due and self.due[0][0] <= time.monotonic():
            _, _, worker, value = heapq.heappop(self.due)
            found.append(Answer(worker, value))
            if isinstance(value, Usage):
                self.idle.add(worker)
            if len(found) == len(self.slots):
                break
        return found

    def shutdown(self) -> None:
        return

    # A worker ---------------------------------------------------------------------------------------------------------

    def _answer(self, worker: int, name: str, *arguments: Any) -> tuple[float, Any]:
        """The value of a call, and the seconds until it comes."""
        match name:
            case "load":
                return 0.0, self.base
            case "build":
                return 0.0, PackInfo(self.method, 1, (1, 1), None, ())
            case "close":
                return 0.0, Usage({"training": 0.0}, None)
        (commands,) = arguments
        events = list(self._advance(worker, commands))
        return self.seconds / self.evaluations if isinstance(events[0], Evaluated) else 0.0, events

    def _advance(self, worker: int, commands: Sequence[Command]) -> Iterator[Event]:
        if any(isinstance(command, Stop) for command in commands):
            yield Idle()
            return
        more, verdict = True, True
        for command in commands:
            match command:
                case StartTrials(trials, more):
                    for trial in trials:
                        self.slots[worker] = trial, 0
                        self.began[worker] = time.monotonic()
                case Verdicts((verdict,)):
                    self.judged += 1
        held = self.slots[worker]
        if held is not None and (not verdict or held[1] == self.evaluations):
            yield self._end(worker, *held, pruned=not verdict)
            held = self.slots[worker] = None
        if held is None:
            yield TrialsWanted(1) if more else Idle()
            return
        trial, index = held[0], held[1] + 1
        self.slots[worker] = trial, index
        yield Evaluated((Report(trial, self._evaluation(trial, index), self._taken(worker)),))
        if time.monotonic() > self.reported.get(worker, 0.0) + 1:
            self.reported[worker] = time.monotonic()
            yield Progressed((self._status(trial, index),), (StepTime(self.seconds, 1, 1),))

    def _end(self, worker: int, trial: Trial, index: int, *, pruned: bool) -> Event:
        self.ended.append(time.monotonic())
        best = max((self._evaluation(trial, i) for i in range(1, index + 1)), key=lambda each: each.scores["macro_f1"])
        how = index, self._taken(worker), best, 1, self._status(trial, index)
        if pruned:
            return TrialEnded(trial, Result(TrialState.PRUNED, f"pruned after evaluation {index}", *how))
        return TrialEnded(trial, Result(TrialState.COMPLETE, "", *how, self.weights, self.logits))

    def _taken(self, worker: int) -> float:
        return time.monotonic() - self.began[worker]

    def _evaluation(self, trial: Trial, index: int) -> Evaluation:
        curve = self.curves[trial.number % len(self.curves)] if self.curves else modelled(trial.number)
        scores = {name: value if math.isfinite(value) else 0.0 for name, value in curve[index - 1].items()}
        return Evaluation(index, 10 * index, float(index), 0.5, trial.params.learning_rate, scores)

    def _status(self, trial: Trial, index: int) -> SlotStatus:
        return SlotStatus(0, trial.number, 10 * index, 60, 0.5, evaluated=index, evaluations=self.evaluations)
