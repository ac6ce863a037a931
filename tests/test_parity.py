"""Each slot of a pack trains its trial as stock peft and a plain loop train the same trial alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peftsweep.config import TrainConfig
from peftsweep.engine import Trial
from peftsweep.task import Task
from tests.numbers import distance, float64, same_losses, same_step, same_weights
from tests.packs import MULTI, SINGLE, Queue, Traced, pack_of, run_pack
from tests.stock_training import StockPeft, peft_alone
from tests.tiny import tiny_model


def some_layers(folder: Path, method: str) -> list[str]:
    """Some linear layers of a decoder or of an encoder, by the last part of their path."""
    if method == "ia3":
        return []
    decoder = "llama" in (folder / "base" / "config.json").read_text()
    return ["q_proj", "down_proj"] if decoder else ["query", "dense"]


def mixed(folder: Path, method: str) -> list[Trial]:
    """Five trials for three slots: ranks, rates, schedules, optimizers, batch sizes, epochs and adapted layers all
    differ; two start when a slot becomes free."""
    layers = tuple(some_layers(folder, method))
    lora = [{"rank": 2, "alpha": 8.0}, {"rank": 8}, {"rank": 4, "target_modules": layers}, {"rank": 8, "alpha": 4.0}]
    lora += [{"rank": 3, "target_modules": layers}]
    plans = [
        {"batch_size": 8, "epochs": 2, "learning_rate": 1e-2, "scheduler": "linear", "weight_decay": 0.1},
        {"batch_size": 4, "epochs": 1, "learning_rate": 8e-3, "scheduler": "cosine", "max_grad_norm": 0.1},
        {"batch_size": 16, "epochs": 3, "learning_rate": 1e-2, "scheduler": "constant_with_warmup", "warmup": 0.2},
        {"batch_size": 8, "epochs": 1, "learning_rate": 2e-1, "optimizer": "sgd", "evals_per_epoch": 2},
        {"batch_size": 5, "epochs": 1, "learning_rate": 5e-3, "scheduler": "constant", "weight_decay": 0.0},
    ]
    extra = lora if method != "ia3" else [{}] * 5
    return [
        Trial(i, 100 + i, TrainConfig(**plan, **more), folder / f"trial-{i}")  # type: ignore[arg-type]
        for i, (plan, more) in enumerate(zip(plans, extra, strict=True))
    ]


@pytest.mark.parametrize("task", [MULTI, SINGLE], ids=lambda task: task.kind)
@pytest.mark.parametrize("architecture", ["llama", "bert"])
@pytest.mark.parametrize("method", ["lora", "ia3", "qlora"])
def test_every_slot_trains_as_stock_peft_alone(tmp_path: Path, method: str, architecture: str, task: Task) -> None:
    """In float64, where rounding hides nothing, every number of every trial agrees."""
    folder = tiny_model(tmp_path / "base", architecture)
    trials = mixed(tmp_path, method)
    with float64():
        pack = pack_of(folder, task, method, trials, slots=3)
        run_pack(pack, Queue(trials))
        assert pack.dtype == torch.float64 and sorted(pack.last) == [0, 1, 2, 3, 4]
        for trial in trials:
            first, last = pack.first[trial.number], pack.last[trial.number]
            losses, weights = peft_alone(folder, task, method, trial, first)
            same_losses(pack.trace[trial.number], losses, pack.dtype)
            same_weights(last, weights, first, pack.dtype)
            assert distance(last, first) > 0.1  # training moved the weights


@pytest.mark.numbers
@pytest.mark.parametrize(
    ("method", "architecture", "task"),
    [("lora", "llama", MULTI), ("ia3", "bert", SINGLE), ("qlora", "llama", SINGLE), ("qlora", "bert", MULTI)],
    ids=lambda value: getattr(value, "kind", value),
)
def test_in_float32_each_step_is_that_of_stock_peft_and_training_ends_close_to_it(
    tmp_path: Path, method: str, architecture: str, task: Task
) -> None:
    folder = tiny_model(tmp_path / "base", architecture)
    trials = mixed(tmp_path, method)
    pack = pack_of(folder, task, method, trials, slots=3, kind=Traced)
    run_pack(pack, Queue(trials))
    assert pack.dtype == torch.float32
    for trial in trials:
        first, last = pack.first[trial.number], pack.last[trial.number]
        losses, weights = peft_alone(folder, task, method, trial, first)
        same_losses(pack.trace[trial.number], losses, pack.dtype)
        same_weights(last, weights, first, pack.dtype)
        alone = StockPeft(folder, task, method, trial, first)
        updates = zip(pack.updates[trial.number], pack.trace[trial.number], strict=True)
        for step, ((before, gradients), loss) in enumerate(updates):
            same_step((loss, gradients), alone.at(step, before), pack.dtype)
