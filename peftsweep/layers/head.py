"""The head of each slot: whatever `AutoModelForSequenceClassification` puts behind its backbone, stacked.

The model's own forward runs with its backbone replaced by the pooled tokens, so any head made of linear layers works as
its authors wrote it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from peftsweep.config import TrainConfig
from peftsweep.layers.context import ForwardContext
from peftsweep.layers.packed_layer import PackedLayer
from peftsweep.layers.segments import Texts


class StackedLinear(PackedLayer):
    """A linear layer of the head, one for each slot, in fp32: weight [K, d_out, d_in], bias [K, d_out]."""

    std: float = 0.02

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        return shapes | ({"bias": (self.out_features,)} if self.inner.bias is not None else {})

    def trial_part(self, name: str, params: TrainConfig) -> tuple[slice, ...]:
        return (slice(None),)

    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> dict[str, Tensor]:
        """As transformers starts a new head: normal weights with the model's initializer range, zero bias."""
        weight = torch.empty(self.out_features, self.in_features)
        return {"weight": weight.normal_(0.0, self.std, generator=generator)}

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).float()
        weight, bias = self.stacked["weight"], self.stacked.get("bias")
        y: Tensor = _LinearBySlot.apply(flat, weight, bias, self.context.texts)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)


class _LinearBySlot(torch.autograd.Function):
    """x [k·n, d_in] through the layer of its slot, as one batched product over the slots.

    Gradients are added directly to the stacked `.grad`, like those of the adapters.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, texts: Texts) -> Tensor:
        wide = x.view(*texts.real.shape, -1).masked_fill(texts.pads, 0)  # [k, n, d_in]
        ctx.save_for_backward(wide, weight, bias)
        ctx.texts = texts
        y = wide @ weight[texts.slots].mT  # [k, n, d_out]
        if bias is not None:
            y += bias[texts.slots, None]
        return y.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wide, weight, bias = ctx.saved_tensors
        texts: Texts = ctx.texts
        g = grad.view(*texts.real.shape, -1).masked_fill(texts.pads, 0)  # [k, n, d_out]
        weight.grad.index_add_(0, texts.slots, g.mT @ wide)
        if bias is not None:
            bias.grad.index_add_(0, texts.slots, g.sum(1))
        to_x = (g @ weight[texts.slots]).flatten(0, 1) if ctx.needs_input_grad[0] else None
        return to_x, None, None, None


class PooledTexts(nn.Module):
    """Replaces the backbone: returns the pooled tokens to the head, through the model's pooler if it has one."""

    def __init__(self, pooler: nn.Module | None, context: ForwardContext) -> None:
        super().__init__()
        self.pooler, self.context = pooler, context

    def forward(self, *args: object, **kwargs: object) -> BaseModelOutputWithPoolingAndCrossAttentions:
        hidden = self.context.pooled
        pooled = None if self.pooler is None else self.pooler(hidden)
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=hidden, pooler_output=pooled)
