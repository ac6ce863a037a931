"""What is a slot's learning rate in a step? It follows the trial's scheduler, as in transformers."""

from __future__ import annotations

import math

from peftsweep.config import TrainConfig


def learning_rate(params: TrainConfig, step: int, steps: int) -> float:
    """Learning rate of step `step` (from 0) of `steps`, equal to that of `transformers.get_scheduler`."""
    peak = params.learning_rate
    if params.scheduler == "constant":
        return peak
    warmup = math.ceil(steps * params.warmup)
    if step < warmup:
        return peak * step / max(1, warmup)
    if params.scheduler == "constant_with_warmup":
        return peak
    if params.scheduler == "linear":
        return peak * max(0.0, (steps - step) / max(1, steps - warmup))
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
