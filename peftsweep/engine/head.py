"""The head of each slot: whatever `AutoModelForSequenceClassification` puts behind its backbone, stacked.

The whole model's own forward is run with its backbone replaced by the pooled tokens, so any head made of linear layers
works as its authors wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from peftsweep.config import TrainConfig
from peftsweep.errors import ModelError
from peftsweep.methods import PackedLayer


class StackedLinear(PackedLayer):
    """A head's linear layer, one for each slot, in fp32: weight [K, d_out, d_in], bias [K, d_out]."""

    std: float = 0.02

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        return shapes | ({"bias": (self.out_features,)} if self.inner.bias is not None else {})

    def shape_of(self, name: str, params: TrainConfig) -> tuple[slice, ...]:
        return (slice(None),)

    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> None:
        """Normal weights of the model's own initializer range, zero bias: what transformers gives a new head."""
        first = torch.empty(self.out_features, self.in_features).normal_(0.0, self.std, generator=generator)
        self.stacked["weight"].data[slot].copy_(first)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).float()
        y: Tensor = _LinearBySlot.apply(flat, *self.stacked.values(), self.stacked, self.current.segments)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)


class _LinearBySlot(torch.autograd.Function):
    """x [N, d_in] through its slot's own layer. Gradients go straight to the stacked `.grad`, as the adapters' do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        *_, stacked, segments = rest
        ctx.save_for_backward(x)
        ctx.stacked, ctx.segments, ctx.count = stacked, segments, len(rest) + 2
        bias = stacked.get("bias")
        y = x.new_empty(len(x), weight.shape[1])
        for slot, start, stop in segments.stretches():
            y[start:stop] = nn.functional.linear(x[start:stop], weight[slot], None if bias is None else bias[slot])
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        weight, bias = ctx.stacked["weight"], ctx.stacked.get("bias")
        to_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        for slot, start, stop in ctx.segments.stretches():
            g = grad[start:stop]
            weight.grad[slot] += g.T @ x[start:stop]
            if bias is not None:
                bias.grad[slot] += g.sum(0)
            if to_x is not None:
                to_x[start:stop] = g @ weight[slot]
        return to_x, *(None,) * (ctx.count - 1)


class PooledTexts(nn.Module):
    """Stands where the backbone was: gives the head the pooled tokens, through the model's own pooler if it has one."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler
        self.hidden = torch.empty(0)  # [N, 1, d], set before each pass

    def forward(self, *args: object, **kwargs: object) -> BaseModelOutputWithPoolingAndCrossAttentions:
        pooled = None if self.pooler is None else self.pooler(self.hidden)
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=self.hidden, pooler_output=pooled)


def head_linears(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Paths of the head's linear layers, outermost last.

    Raises:
        ModelError: the head has parameters outside linear layers, which slots could not hold.
    """
    for name in names:
        module = model.get_submodule(name)
        if not isinstance(module, nn.Linear):
            raise ModelError(
                f"the head of {type(model).__name__} has a {type(module).__name__} ({name}): not supported"
            )
    return list(names)
