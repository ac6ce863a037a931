"""What a pack is worth on a CPU, and what a sweep costs beside its training.

    python benchmarks/cpu.py [--quick] [--train train.tsv --validation dev.tsv]

Figures go to stdout, a JSON object a line; what is under way goes to stderr.

1. Samples per second of one fine-tune by `transformers.Trainer` and `peft`, and of eight in a pack, on the study
   `demo`: its model, its tweets, batches of 16, rank 16 on all linear layers. Each side runs in a process of its own,
   as a person would run it. Rounds take turns, so that a machine that slows down slows all of them; the figures are
   medians.
2. Macro-F1 of the study `demo` with its base in float32 and in bfloat16, five seeds of each.
3. With the files of SemEval-2018 E-c: where a short run of the study `lora-minilm` spends its time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import peftsweep
from peftsweep.config import StudyConfig, TrainConfig, load
from peftsweep.data import Dataset
from peftsweep.data import load as load_data
from peftsweep.engine import Pack, PackWorker, Progressed, Report, Result, Trial
from peftsweep.methods import METHODS
from peftsweep.models import linear_names, load_base, load_tokenizer
from peftsweep.progress import for_stream
from peftsweep.sweep.judge import Judge, drive

SLOTS, SEEDS = 8, 5
BATCH, RANK = 16, 16
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """Steps before the clock starts, steps under it, and how many rounds of them."""

    warmup: int
    steps: int
    rounds: int


@dataclass(frozen=True)
class Ground:
    """What both sides train on."""

    config: StudyConfig
    tokenizer: Any
    data: Dataset
    plan: Plan


class Marks:
    """The seconds between the end of the last warm-up step and the end of the last step."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.done, self.began, self.ended = plan, 0, 0.0, 0.0

    def step(self) -> bool:
        """Count a step; False after the last."""
        self.done += 1
        if self.done == self.plan.warmup:
            self.began = time.perf_counter()
        if self.done == self.plan.warmup + self.plan.steps:
            self.ended = time.perf_counter()
        return not self.ended

    def rate(self, samples_per_step: int) -> float:
        return samples_per_step * self.plan.steps / (self.ended - self.began)


# Trainer and peft ---------------------------------------------------------------------------------------------------


class OnStep(TrainerCallback):
    def __init__(self, marks: Marks) -> None:
        self.marks = marks

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.marks.step()


def trainer_rate(
    ground: Ground, dropout: float, folder: Path, base_dropout: bool = True, bf16: bool = False, padded: bool = False
) -> float:
    """Samples per second of one fine-tune, as a person would write it who has these two libraries.

    Args:
        padded: all texts to 128 tokens, in place of each batch to its longest.
        base_dropout: leave the base's own dropout on in training, as `Trainer` does. A pack has none, so without it
            both sides do the same work.
        bf16: autocast to bfloat16, which a person would have to ask for; the pack's base is in it by itself where a
            CPU is quick at it.
    """
    marks = Marks(ground.plan)
    trainer = Trainer(
        model=adapted(ground, dropout, base_dropout),
        args=TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=BATCH,
            max_steps=ground.plan.warmup + ground.plan.steps,
            learning_rate=2e-4,
            optim="adamw_torch_fused",
            use_cpu=True,
            bf16=bf16,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=examples(ground.data),
        data_collator=DataCollatorWithPadding(ground.tokenizer, "max_length" if padded else True, max_length=128),
        callbacks=[OnStep(marks)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return marks.rate(BATCH)


def adapted(ground: Ground, dropout: float, base_dropout: bool) -> Any:
    """The base with peft's LoRA on every linear layer of its backbone."""
    base = load_base(ground.config.model, ground.data.task, four_bit=False, device=CPU)
    own = {} if base_dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = AutoModelForSequenceClassification.from_pretrained(
        base.source, num_labels=len(ground.data.task.labels), dtype=torch.float32, trust_remote_code=False, **own
    )
    linears = linear_names(model)
    return get_peft_model(
        model,
        LoraConfig(task_type="SEQ_CLS", r=RANK, lora_alpha=2 * RANK, lora_dropout=dropout, target_modules=linears),
    )


def examples(data: Dataset) -> list[dict[str, Any]]:
    rows = zip(data.train.input_ids, data.train.labels, strict=True)
    return [{"input_ids": [int(token) for token in text], "label": label.item()} for text, label in rows]


# A pack -------------------------------------------------------------------------------------------------------------


class Given(Judge):
    """Gives some trials, and stops the pack when the clock has stopped."""

    def __init__(self, trials: Sequence[Trial], marks: Marks) -> None:
        self.waiting, self.marks, self.stopped = list(trials), marks, False

    def next(self, worker: int) -> Trial | None:
        return self.waiting.pop(0) if self.waiting else None

    def report(self, reports: Sequence[Report]) -> Sequence[bool]:
        raise AssertionError("no trial comes as far as its first evaluation")

    def finish(self, trial: Trial, result: Result) -> None:
        raise AssertionError(f"trial {trial.number} ended: {result.reason}")

    def progressed(self, event: Progressed, worker: int) -> None:
        if not self.stopped:
            self.stopped = not self.marks.step()

    def wants_stop(self) -> bool:
        return self.stopped


def pack_rate(ground: Ground, dropout: float, folder: Path) -> float:
    """Samples per second of all slots together."""
    data, marks = ground.data, Marks(ground.plan)
    params = TrainConfig(epochs=1, batch_size=BATCH, rank=RANK, dropout=dropout)
    trials = [Trial(number, number, params, folder / str(number)) for number in range(SLOTS)]
    model = load_base(ground.config.model, data.task, four_bit=False, device=CPU).model
    method = METHODS["lora"](model, linear_names(model))
    splits = data.train, data.validation
    pack = Pack(model, method, data.task, *splits, candidates=[params], slots=SLOTS)
    drive(PackWorker(pack, heartbeat=0.0), Given(trials, marks))
    return marks.rate(BATCH * SLOTS)


# Figures ------------------------------------------------------------------------------------------------------------


PACK = f"pack of {SLOTS}"
SIDES: dict[str, Callable[[Ground, float, Path], float]] = {
    "trainer+peft, padded to 128": partial(trainer_rate, padded=True),
    "trainer+peft": trainer_rate,
    "trainer+peft, no dropout in the base": partial(trainer_rate, base_dropout=False),
    "trainer+peft, bf16 autocast": partial(trainer_rate, bf16=True),
    PACK: pack_rate,
}


def one_side(side: str, dropout: float, plan: Plan) -> None:
    """Print the rate of one side, in a process of its own."""
    config = load("demo")
    tokenizer = load_tokenizer(config.model)
    ground = Ground(config, tokenizer, load_data(config.data, tokenizer, note=say, warn=say), plan)
    if (plan.warmup + plan.steps) * BATCH >= len(ground.data.train):
        raise SystemExit("the steps must stay within an epoch: its last batch is smaller, and an evaluation follows")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        rate = SIDES[side](ground, dropout, Path(folder))
    print(rate, flush=True)


def compare(dropout: float, plan: Plan, quick: bool) -> None:
    """All sides by turns, then their medians and the ratios, round by round, of the pack to each rival."""
    rates: dict[str, list[float]] = {what: [] for what in SIDES}
    for turn in range(plan.rounds):
        for what in SIDES:
            command = [sys.executable, __file__, "--side", what, "--dropout", str(dropout), *(["--quick"] * quick)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rates[what].append(float(done.stdout))
            say(f"dropout {dropout}, round {turn + 1}, {what}: {rates[what][-1]:.1f} samples/s")
    for what, found in rates.items():
        show("samples_per_second", what=what, dropout=dropout, samples_per_second=middle(found), **spread(found))
    for what, found in ratios(rates).items():
        show("ratio", what=f"{PACK} / {what}", dropout=dropout, ratio=middle(found), **spread(found))


def ratios(rates: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Of the pack to each rival, round by round."""
    rivals = {what: found for what, found in rates.items() if what != PACK}
    return {what: [a / b for a, b in zip(rates[PACK], found, strict=True)] for what, found in rivals.items()}


def seeds() -> None:
    """The study's fixed hyperparameters, five seeds side by side, in each precision."""
    for dtype in ("float32", "bfloat16"):
        config = load("demo", [f"model.dtype={dtype}", "train.rank=16", "train.learning_rate=2e-3"])
        tokenizer = load_tokenizer(config.model)
        data = load_data(config.data, tokenizer, note=say, warn=say)
        base = load_base(config.model, data.task, four_bit=False, device=CPU)
        method = METHODS[config.method](base.model, linear_names(base.model))
        pack = Pack(base.model, method, data.task, data.train, data.validation, candidates=[config.train], slots=SEEDS)
        with tempfile.TemporaryDirectory() as folder:
            given = Scored([Trial(seed, seed, config.train, Path(folder) / str(seed)) for seed in range(SEEDS)])
            drive(PackWorker(pack, heartbeat=0.0), given)
        scores = [given.scores[seed] for seed in range(SEEDS)]
        mean, apart = statistics.mean(scores), statistics.stdev(scores)
        show(
            "seeds",
            dtype=dtype,
            macro_f1=[round(score, 4) for score in scores],
            mean=round(mean, 4),
            sd=round(apart, 4),
        )


class Scored(Judge):
    """Gives some trials, and remembers the macro-F1 of each at its end."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.waiting, self.scores = list(trials), dict[int, float]()

    def next(self, worker: int) -> Trial | None:
        return self.waiting.pop(0) if self.waiting else None

    def report(self, reports: Sequence[Report]) -> Sequence[bool]:
        for report in reports:
            self.scores[report.trial.number] = report.evaluation.scores["macro_f1"]
        return [True] * len(reports)

    def finish(self, trial: Trial, result: Result) -> None:
        say(f"seed {trial.number}: {result.state}, {self.scores[trial.number]:.4f}")


def overhead(train: Path, validation: Path, quick: bool) -> None:
    """A real run of twelve trials: asking, telling, reporting, MLflow and checkpoints beside training steps."""
    overrides = {"data.train": str(train.resolve()), "data.validation": str(validation.resolve())}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(sys.stderr):
        result = peftsweep.run(
            "lora-minilm",
            trials=12,
            overrides=overrides | ({"train.epochs": 1} if quick else {}),
            storage="sqlite:///studies.db",
            tracking_uri="sqlite:///mlflow.db",
            progress=for_stream(sys.stderr),
        )
    total = sum(result.seconds.values())
    shares = {label: round(seconds / total, 5) for label, seconds in result.seconds.items()}
    outside = sum(share for label, share in shares.items() if label not in ("training", "evaluation"))
    seconds = {label: round(seconds, 2) for label, seconds in result.seconds.items()}
    show("overhead_share", share=round(outside, 5), shares=shares, seconds=seconds, trials=result.counts)


def middle(values: Sequence[float]) -> float:
    return round(statistics.median(values), 2)


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": round(min(values), 2), "max": round(max(values), 2)}


def show(figure: str, **values: Any) -> None:
    print(json.dumps({"figure": figure, **values}), flush=True)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Figures of a pack and of a sweep on a CPU.")
    parser.add_argument("--train", type=Path, help="SemEval-2018 E-c, training split; with --validation")
    parser.add_argument("--validation", type=Path, help="its validation split")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--dropout", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="fewer steps and rounds; one epoch")
    options = parser.parse_args()
    if (options.train is None) != (options.validation is None):
        parser.error("--train and --validation go together")
    for file in (options.train, options.validation):
        if file is not None and not file.is_file():
            parser.error(f"{file} is not there")
    plan = Plan(3, 10, 1) if options.quick else Plan(5, 20, 3)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.side:
        one_side(options.side, options.dropout, plan)
        return
    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "arch": platform.machine()}
    show("machine", **machine, torch=torch.__version__, load=round(os.getloadavg()[0], 2))  # idle: below a half
    for dropout in (0.0, 0.1):
        compare(dropout, plan, options.quick)
    seeds()
    if options.train is not None:
        overhead(options.train, options.validation, options.quick)


if __name__ == "__main__":
    main()
