"""The engine's conscience: a slot of a pack against the same trial trained alone by stock peft and a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import get_scheduler

from peftsweep.config import TrainConfig
from peftsweep.engine import Examples, Trial
from peftsweep.engine.schedule import Schedule
from peftsweep.methods import METHODS
from peftsweep.models import linear_names
from peftsweep.task import Task
from tests.packs import CPU, MULTI, SINGLE, Queue, Texts, base_of, pack_of
from tests.tiny import tiny_model


def peft_alone(
    folder: Path,
    task: Task,
    method: str,
    trial: Trial,
    first: dict[str, torch.Tensor],
    dtype: str = "float32",
    device: torch.device = CPU,
    train: Examples | None = None,
    head_only: bool = False,
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The trial by stock peft and a plain loop from the same first weights: losses, and final weights by name.

    Args:
        head_only: leave the adapters as they are.
    """
    model = base_of(folder, task, method, dtype, device).model
    adapters = METHODS[method](model, linear_names(model))
    train = train or Texts(task, 37, 1)
    schedule = Schedule(trial.params, len(train.input_ids))
    heads = sorted({key.split(":")[0] for key in first} - set(adapters.targets(trial.params)))
    config = adapters.peft_config(
        trial.params, task_type="SEQ_CLS", modules_to_save=sorted({head.split(".")[0] for head in heads})
    )
    peft = get_peft_model(model, config)
    named = {}
    for key, value in first.items():
        path, parameter = key.split(":")
        if path in heads:
            outer, _, inner = path.partition(".")
            inside = f"{inner}.{parameter}" if inner else parameter
            named[f"base_model.model.{outer}.modules_to_save.default.{inside}"] = value
        else:
            name, stored = adapters.to_peft(path, parameter, value, trial.params)
            stem = name.removesuffix(".weight")
            ending = ".default.weight" if name.endswith(".weight") else ".default"
            named[f"base_model.model.{path}.{stem}{ending}"] = stored
    trained = {name: p for name, p in peft.named_parameters() if p.requires_grad}
    assert set(trained) == set(named)
    for name, parameter in trained.items():
        parameter.data = named[name].to(device, copy=True)  # in fp32, a head in bf16 too
        parameter.requires_grad_("modules_to_save" in name or not head_only)
    groups = [
        {
            "params": [p for n, p in trained.items() if not n.endswith("bias")],
            "weight_decay": trial.params.weight_decay,
        },
        {"params": [p for n, p in trained.items() if n.endswith("bias")], "weight_decay": 0.0},
    ]
    groups, rate = [group for group in groups if group["params"]], trial.params.learning_rate
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=rate)
    if trial.params.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9)
    warmup = int(np.ceil(schedule.steps * trial.params.warmup))
    scheduler = get_scheduler(trial.params.scheduler, optimizer, warmup, schedule.steps)
    losses = []
    peft.eval()  # dropout is 0, and the base's own is off in a pack
    for step in range(schedule.steps):
        picked = schedule.batch(step, trial.seed)
        longest = max(len(train.input_ids[i]) for i in picked)
        ids = torch.full((len(picked), longest), model.config.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(picked):
            ids[row, : len(train.input_ids[i])] = torch.from_numpy(train.input_ids[i])
            mask[row, : len(train.input_ids[i])] = 1
        labels = torch.from_numpy(train.labels[picked]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            out = peft(input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), trial.params.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(out.loss.item())
    return losses, {name: trained[name].detach().cpu() for name in named}


def ending_of_last_layer(folder: Path, method: str) -> list[str]:
    """Some linear layers of a decoder or of an encoder, by the last part of their path."""
    if method == "ia3":
        return []
    decoder = "llama" in (folder / "base" / "config.json").read_text()
    return ["q_proj", "down_proj"] if decoder else ["query", "dense"]


def mixed(folder: Path, method: str) -> list[Trial]:
    """Five trials for three slots: ranks, rates, schedules, optimizers, batch sizes, epochs and adapted layers all
    differ; two are refills."""
    last = tuple(ending_of_last_layer(folder, method))
    lora = [{"rank": 2, "alpha": 8.0}, {"rank": 8}, {"rank": 4, "target_modules": last}, {"rank": 8, "alpha": 4.0}]
    lora += [{"rank": 3, "target_modules": last}]
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
    folder = tiny_model(tmp_path / "base", architecture)
    trials = mixed(tmp_path, method)
    pack = pack_of(folder, task, method, trials, slots=3)
    pack.run(Queue(trials))
    tolerance = 1e-3 if method == "qlora" else 1e-4
    assert sorted(pack.last) == [0, 1, 2, 3, 4]
    for trial in trials:
        losses, weights = peft_alone(folder, task, method, trial, pack.first[trial.number])
        np.testing.assert_allclose(pack.trace[trial.number], losses, atol=tolerance, rtol=0)
        for ours, theirs in zip(pack.last[trial.number].values(), weights.values(), strict=True):
            torch.testing.assert_close(ours.reshape(theirs.shape), theirs, atol=tolerance, rtol=0)
        moved = [(pack.first[trial.number][key] - value).abs().max() for key, value in pack.last[trial.number].items()]
        assert max(moved) > 10 * tolerance  # it did learn something
