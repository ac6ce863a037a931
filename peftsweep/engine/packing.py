"""A base model made ready for a pack: its layers wrapped, its attention and head in rows, and proof that it still is
the same model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftsweep.config import TrainConfig
from peftsweep.engine.head import PooledTexts, StackedLinear, head_linears
from peftsweep.engine.rows import ATTENTION, Pooling, Rows, Text, forward_rows, lay
from peftsweep.engine.stack import Stack
from peftsweep.errors import ModelError
from peftsweep.methods import Method, PackedLayer, Pass
from peftsweep.models import head_names


class Packed:
    """The model's backbone, head and stacked adapters, as one function from rows to logits.

    Args:
        samples: a few texts of different lengths, on which the packed model is compared with the plain one.
    """

    def __init__(
        self, model: Any, method: Method, candidates: Sequence[TrainConfig], slots: int, samples: Sequence[Text]
    ) -> None:
        self.model = model
        self.pooling = _pooling(model)
        expected = _plain_logits(model, samples, self.pooling.pad_token_id)
        self.current = Pass()
        self.heads = head_linears(model, head_names(model))
        targets = {path for params in candidates for path in method.targets(params)}
        layers: list[PackedLayer] = []
        for path in (path for path in method.linears if path in targets):
            inner = model.get_submodule(path)
            layers.append(method.layer(inner, path, len(layers), self.current, slots, candidates))
        for path in self.heads:
            head = StackedLinear(model.get_submodule(path), path, len(layers), self.current, slots)
            head.std = float(getattr(model.config, "initializer_range", StackedLinear.std))
            layers.append(head)
        self.stack = Stack(layers, slots, next(model.parameters()).device)  # before the model is touched: may not fit
        for layer in layers:
            model.set_submodule(layer.name, layer)
        prefix = model.base_model_prefix
        self.backbone: nn.Module = getattr(model, prefix)
        self.pooled = PooledTexts(getattr(self.backbone, "pooler", None))
        if self.pooled.pooler is not None:
            self.backbone.pooler = None
        # The head is the whole model's own forward with the backbone taken out; a shallow copy leaves `model` intact.
        self.head: nn.Module = copy.copy(model)
        self.head._modules = dict(model._modules)
        setattr(self.head, prefix, self.pooled)
        self.attention: str = model.config._attn_implementation
        model.set_attn_implementation(ATTENTION)
        self._check(samples, expected)

    def release(self) -> None:
        """Put the base's own layers, pooler and attention back."""
        if self.pooled.pooler is not None:
            self.backbone.pooler = self.pooled.pooler
        for layer in self.stack.layers:
            self.model.set_submodule(layer.name, layer.inner)
        self.model.set_attn_implementation(self.attention)

    def logits(self, rows: Rows, keys: Mapping[int, tuple[int, ...]] | None) -> Tensor:
        """Logits [N, C] in fp32. `keys` seed the slots' dropout; None drops nothing."""
        self.current.keys = keys
        self.current.segments = rows.tokens
        hidden = forward_rows(self.backbone, rows)  # [T, d]
        self.current.segments = rows.texts
        self.pooled.hidden = hidden[rows.pooled][:, None]  # [N, 1, d]
        some_token = rows.input_ids[0, rows.pooled][:, None]  # [N, 1]
        try:
            logits: Tensor = self.head(input_ids=some_token).logits
        finally:
            self.pooled.hidden = torch.empty(0)
        return logits.float()

    @torch.no_grad()
    def _check(self, samples: Sequence[Text], expected: Tensor) -> None:
        """The packed model with the plain model's own head and no adapter must give the plain model's logits."""
        for place in self.stack.places:
            if place.layer.name in self.heads:
                place.layer.stacked[place.name][0].copy_(getattr(place.layer.inner, place.name))
        rows = lay([0], [samples], self.pooling, expected.device, uniform=False)
        got = self.logits(rows, None)
        self.stack.weights.zero_()
        exact = next(self.model.parameters()).dtype == torch.float32
        allowed = (1e-3 if exact else 0.1) * max(1.0, float(expected.abs().max()))
        worst = float((got - expected).abs().max())
        if not worst <= allowed:
            raise ModelError(
                f"{type(self.model).__name__} gives other logits packed than text by text (off by {worst:.2g}): "
                "this architecture is not supported"
            )


def _pooling(model: Any) -> Pooling:
    pad = model.config.pad_token_id
    embeddings = getattr(getattr(model, model.base_model_prefix), "embeddings", None)
    shifted = hasattr(embeddings, "create_position_ids_from_input_ids")  # RoBERTa counts from pad_token_id + 1
    return Pooling(last=hasattr(model, "score"), pad_token_id=int(pad or 0), first_position=pad + 1 if shifted else 0)


@torch.no_grad()
def _plain_logits(model: Any, samples: Sequence[Text], pad: int) -> Tensor:
    """Logits [n, C] of the untouched model, in its own padded batch."""
    longest = max(map(len, samples))
    ids = torch.full((len(samples), longest), pad)
    mask = torch.zeros_like(ids)
    for i, text in enumerate(samples):
        ids[i, : len(text)] = torch.from_numpy(text)
        mask[i, : len(text)] = 1
    device = next(model.parameters()).device
    logits: Tensor = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    return logits.float()
