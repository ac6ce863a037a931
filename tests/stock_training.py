"""A trial trained alone by stock peft and a plain loop: the reference for a slot of a pack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from transformers import get_scheduler

from peftsweep.engine import Examples, Trial
from peftsweep.engine.schedule import Schedule
from peftsweep.methods import METHODS
from peftsweep.models import linear_names
from peftsweep.task import Task
from tests.packs import CPU, Texts, base_of


class StockPeft:
    """A trial's model with given first weights, its optimizer and its schedule.

    Weights and gradients have the pack's names, `path:parameter`, and the pack's shapes.

    Args:
        first: the trial's weights before the first step.
        head_only: train the head alone.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        method: str,
        trial: Trial,
        first: Mapping[str, torch.Tensor],
        dtype: str = "float32",
        device: torch.device = CPU,
        train: Examples | None = None,
        head_only: bool = False,
    ) -> None:
        self.trial, self.device, self.dtype, self.first = trial, device, dtype, first
        self.train = train or Texts(task, 37, 1)
        self.schedule = Schedule(trial.params, len(self.train.input_ids))
        model = base_of(folder, task, method, dtype, device).model
        self.pad = model.config.pad_token_id
        self.adapters = METHODS[method](model, linear_names(model))
        self.heads = sorted({key.split(":")[0] for key in first} - set(self.adapters.targets(trial.params)))
        config = self.adapters.peft_config(
            trial.params, task_type="SEQ_CLS", modules_to_save=sorted({head.split(".")[0] for head in self.heads})
        )
        self.peft = get_peft_model(model, config)
        self.peft.eval()  # the trial's dropout is 0, and a pack turns the base's own off
        trained = {name: p for name, p in self.peft.named_parameters() if p.requires_grad}
        named = {key: self.place(key, value) for key, value in first.items()}
        assert set(trained) == {name for name, _ in named.values()}
        self.parameters = {key: trained[name] for key, (name, _) in named.items()}
        for key, parameter in self.parameters.items():
            parameter.data = named[key][1].to(device, copy=True)  # in float32, even the head of a bfloat16 base
            parameter.requires_grad_(not head_only or key.split(":")[0] in self.heads)
        self.optimizer = self._optimizer()
        warmup = int(np.ceil(self.schedule.steps * trial.params.warmup))
        self.scheduler = get_scheduler(trial.params.scheduler, self.optimizer, warmup, self.schedule.steps)

    def place(self, key: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
        """A slot's tensor in peft's shape, and the name of peft's parameter."""
        path, parameter = key.split(":")
        if path in self.heads:
            outer, _, inner = path.partition(".")
            inside = f"{inner}.{parameter}" if inner else parameter
            return f"base_model.model.{outer}.modules_to_save.default.{inside}", value
        name, stored = self.adapters.to_peft(path, parameter, value, self.trial.params)
        stem = name.removesuffix(".weight")
        ending = ".default.weight" if name.endswith(".weight") else ".default"
        return f"base_model.model.{path}.{stem}{ending}", stored

    def _optimizer(self) -> torch.optim.Optimizer:
        params = self.trial.params
        biases = [p for key, p in self.parameters.items() if key.endswith("bias")]
        others = [p for key, p in self.parameters.items() if not key.endswith("bias")]
        groups = [{"params": others, "weight_decay": params.weight_decay}]
        groups += [{"params": biases, "weight_decay": 0.0}] if biases else []
        if params.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=params.learning_rate, momentum=0.9)
        return torch.optim.AdamW(groups, lr=params.learning_rate)

    def backward(self, step: int) -> float:
        """The loss of that step's batch; leaves the gradients in the parameters."""
        picked = self.schedule.batch(step, self.trial.seed)
        texts = [torch.from_numpy(self.train.input_ids[i]) for i in picked]
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=self.pad)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        labels = torch.from_numpy(self.train.labels[picked])
        labels = labels.float() if labels.is_floating_point() else labels
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            out = self.peft(
                input_ids=ids.to(self.device), attention_mask=mask.to(self.device), labels=labels.to(self.device)
            )
        self.optimizer.zero_grad()
        out.loss.backward()
        return out.loss.item()

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.trial.params.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()

    def at(self, step: int, weights: Mapping[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
        """The loss and the gradients of that step's batch, at these weights."""
        for key, value in weights.items():
            self.parameters[key].data.copy_(self.place(key, value)[1])
        loss = self.backward(step)
        return loss, self._shaped({key: p.grad for key, p in self.parameters.items()})

    def weights(self) -> dict[str, torch.Tensor]:
        return self._shaped({key: p.detach() for key, p in self.parameters.items()})

    def _shaped(self, found: Mapping[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
        return {key: value.cpu().reshape(self.first[key].shape) for key, value in found.items() if value is not None}


def peft_alone(*given: Any, **options: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train the trial of a `StockPeft`; returns the loss of each step and the last weights, under the pack's names."""
    alone, losses = StockPeft(*given, **options), []
    for step in range(alone.schedule.steps):
        losses.append(alone.backward(step))
        alone.update()
    return losses, alone.weights()


def in_full(model: Any) -> Any:
    """Make the model's 4-bit layers multiply in float32. Outside of training, bitsandbytes uses bfloat16 for them on
    CPUs that have instructions for it."""
    for part in model.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False
    return model
