"""LoRA: y = W x + (α/r)·B A x (Hu et al., 2021, arXiv:2106.09685). QLoRA is LoRA on a 4-bit base (arXiv:2305.14314)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from peftsweep.config import TrainConfig
from peftsweep.config.hyperparameters import lora as hyperparameters
from peftsweep.errors import ModelError
from peftsweep.layers import LayerSpec, PackedLayer, Segments
from peftsweep.layers.dropout import keep_mask
from peftsweep.methods.adapter_config import AdapterFile
from peftsweep.methods.method import Method, select, shortest_names


def alpha_of(params: TrainConfig) -> float:
    return hyperparameters.default_alpha(params.rank) if params.alpha is None else params.alpha


class PackedLora(PackedLayer):
    """A: [K, r_max, d_in], B: [K, d_out, r_max]. Rows of A and columns of B beyond a slot's rank stay zero."""

    rank_axes: ClassVar[Mapping[str, int]] = MappingProxyType({"A": 0, "B": 1})

    def __init__(self, spec: LayerSpec, rank: int, **options: Any) -> None:
        super().__init__(spec, **options)
        self.max_rank = rank
        self.salt = torch.empty(0)  # [1] the layer's own dropout, for kernels

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"A": (self.max_rank, self.in_features), "B": (self.out_features, self.max_rank)}

    def trial_part(self, name: str, params: TrainConfig) -> tuple[slice, ...]:
        return (slice(params.rank), slice(None)) if name == "A" else (slice(None), slice(params.rank))

    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> dict[str, Tensor]:
        """As in peft: A is Kaiming-uniform with a = √5 and B is zero, so the first step sees the unchanged base."""
        self.scales[slot] = alpha_of(params) / params.rank
        self.dropouts[slot] = params.dropout
        bound = 1 / math.sqrt(self.in_features)
        return {"A": torch.empty(params.rank, self.in_features).uniform_(-bound, bound, generator=generator)}

    def bind(self, stacked: Mapping[str, Tensor]) -> None:
        super().bind(stacked)
        salt = (self.index + 1) * 0x9E3779B1 % 2**32  # spread over 32 bits
        self.salt = torch.tensor([salt], device=stacked["A"].device)

    def forward(self, x: Tensor) -> Tensor:
        if self.context.fused:
            return self.fused(x)
        segments = self.context.segments
        if not any(self.active[slot] for slot in segments.slots):
            return self.inner(x)  # type: ignore[no-any-return]
        flat = x.reshape(-1, x.shape[-1])  # [rows, d_in]
        y: Tensor | None = None
        if type(self.inner) is not nn.Linear:
            y = self.inner(flat)
            if y._base is not None:  # autograd forbids custom in-place functions on views, and 4-bit layers return them
                y = y.clone()
        y = _AddLora.apply(y, flat, self.stacked["A"], self.stacked["B"], self, segments)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)

    def fused(self, x: Tensor) -> Tensor:
        """With a GPU's kernels, each of which handles all slots in one launch."""
        from peftsweep.methods.low_rank_kernels import linear_low_rank

        now = self.context
        y: Tensor
        y, _ = linear_low_rank(
            x.reshape(-1, x.shape[-1]).contiguous(),  # as the kernels find their rows
            *self.frozen,
            self.inner.bias,
            self.stacked["A"],
            self.stacked["B"],
            self.grads["A"],
            self.grads["B"],
            self.ranks,
            self.factor,
            now.keep,
            now.seeds,
            self.salt,
            now.tiles,
            now.edges,
            now.drops,
        )
        return y.view(*x.shape[:-1], -1)

    def mask(self, slot: int, x: Tensor) -> Tensor | None:
        """The slot's dropout mask over its rows x [n, d_in]; None where nothing is dropped."""
        keys, dropout = self.context.keys, self.context.dropouts[slot]
        if keys is None or dropout == 0.0:
            return None
        before = self.context.segments.skipped.get(slot, 0)
        whole = before + x.shape[0], x.shape[1]
        key = (*keys[slot], 0, self.index)  # the zero keeps the masks of earlier versions
        return keep_mask(whole, x.device, key, dropout, x.dtype)[before:]


class _AddLora(torch.autograd.Function):
    """y += scale·B A dropout(x), slot by slot.

    Without y, this computes the frozen layer's product x Wᵀ + bias too, so that the gradient of x is written once
    instead of summed from two parts. Gradients of A and B are added directly to the stacked `.grad` of all slots.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor | None, x: Tensor, a: Tensor, b: Tensor, layer: PackedLora, segments: Segments
    ) -> Tensor:
        ctx.weight = None
        if y is None:
            ctx.weight = layer.inner.weight
            y = nn.functional.linear(x, ctx.weight, layer.inner.bias)  # type: ignore[arg-type]
        else:
            ctx.mark_dirty(y)
        ctx.masks, hidden = _forward_by_slot(y, x, a, b, layer, segments)
        ctx.save_for_backward(x, *hidden)
        ctx.layer, ctx.segments = layer, segments
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *hidden = ctx.saved_tensors
        to_x: Tensor | None = None
        if ctx.needs_input_grad[1]:
            to_x = torch.zeros_like(x) if ctx.weight is None else grad @ ctx.weight
        _backward_by_slot(grad, x, hidden, ctx.masks, to_x, ctx.layer, ctx.segments)
        return grad if ctx.weight is None else None, to_x, None, None, None, None


def _forward_by_slot(
    y: Tensor, x: Tensor, a: Tensor, b: Tensor, layer: PackedLora, segments: Segments
) -> tuple[list[Tensor | None], list[Tensor]]:
    """Each slot's rows separately, at its true rank. Returns the dropout mask and scale·A·dropout(x) [n, r] of each."""
    masks, saved = [], []
    for slot, start, stop in segments.by_slot():
        rank = layer.slot_ranks[slot] if layer.active[slot] else 0
        rows = x[start:stop]
        mask, scale = layer.mask(slot, rows), layer.scales[slot]
        if mask is not None:
            rows, scale = rows * mask, scale / (1 - layer.context.dropouts[slot])
        hidden = (rows @ a[slot, :rank].T.to(x.dtype)).mul_(scale)  # [n, r]
        y[start:stop].addmm_(hidden, b[slot, :, :rank].T.to(x.dtype))
        masks.append(mask)
        saved.append(hidden)
    return masks, saved


def _backward_by_slot(
    grad: Tensor,
    x: Tensor,
    saved: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    to_x: Tensor | None,
    layer: PackedLora,
    segments: Segments,
) -> None:
    """Adds each slot's part to the gradients of A, B and x."""
    a, b, to_a, to_b = layer.stacked["A"], layer.stacked["B"], layer.grads["A"], layer.grads["B"]
    for (slot, start, stop), hidden, mask in zip(segments.by_slot(), saved, masks, strict=True):
        rank, scale = hidden.shape[1], layer.scales[slot]
        if rank == 0:  # this trial does not adapt the layer
            continue
        rows, g = x[start:stop], grad[start:stop]
        if mask is not None:
            rows, scale = rows * mask, scale / (1 - layer.context.dropouts[slot])
        to_b[slot, :, :rank].T.add_(hidden.T @ g)  # [r, d_out], as it is stored
        to_hidden = (g @ b[slot, :, :rank].to(g.dtype)).mul_(scale)  # [n, r]
        to_a[slot, :rank] += to_hidden.T @ rows  # [r, d_in]
        if to_x is None:
            continue
        if mask is None:
            to_x[start:stop].addmm_(to_hidden, a[slot, :rank].to(g.dtype))  # [n, d_in]
        else:
            to_x[start:stop].addcmul_(to_hidden @ a[slot, :rank].to(g.dtype), mask)


class LoraFile(AdapterFile):
    """What LoRA writes to adapter_config.json."""

    r: Annotated[int, Field(ge=1)] = 1
    lora_alpha: float = 1.0
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    init_lora_weights: Literal[True] = True

    @property
    def rank(self) -> int:
        return self.r


class Lora(Method):
    spec = hyperparameters.LORA
    adapter_file = LoraFile
    packed_layer: ClassVar[type[PackedLora]] = PackedLora

    def __init__(self, model: nn.Module, linears: Sequence[str]) -> None:
        super().__init__(model, linears)
        layers: dict[str, Any] = {path: model.get_submodule(path) for path in linears}
        lost = taken_elsewhere(model, {path.rsplit(".", 1)[-1] for path in linears})
        self.lost = frozenset(path for path in linears if path.rsplit(".", 1)[-1] in lost)
        gates = {path for path, layer in layers.items() if min(layer.in_features, layer.out_features) == 1}
        self.all = tuple(path for path in linears if path not in self.lost | gates)

    def targets(self, params: TrainConfig) -> tuple[str, ...]:
        """The layers that the trial names. By default all linear layers of the backbone, except gates (one output or
        input leaves no room for a rank) and those that peft has no adapter for.

        Raises:
            ModelError: the trial names a layer that peft has no adapter for.
        """
        if params.target_modules == "auto":
            return self.all
        chosen = select(self.linears, params.target_modules)
        if lost := sorted({path.rsplit(".", 1)[-1] for path in self.lost.intersection(chosen)}):
            raise ModelError(
                f"target_modules: {', '.join(lost)}: in {self.architecture}, peft puts adapters of these names on the "
                "experts instead; leave them out"
            )
        return chosen

    def layer(self, spec: LayerSpec, candidates: Sequence[TrainConfig]) -> PackedLora:
        layer = self.packed_layer(spec, max(params.rank for params in candidates))
        narrowest = min(layer.in_features, layer.out_features)
        if layer.max_rank > narrowest:
            width = f"{layer.in_features} → {layer.out_features}"
            raise ModelError(
                f"rank: {layer.max_rank} is above the width of {layer.name} ({width}); "
                f"choose ranks up to {narrowest} or leave that layer out by target_modules"
            )
        return layer

    def may_drop(self, params: TrainConfig) -> bool:
        return params.dropout > 0

    def widest(self, candidates: Sequence[TrainConfig]) -> TrainConfig:
        return max(candidates, key=lambda params: params.rank).model_copy(update={"dropout": 0.0})

    @classmethod
    def config_class(cls) -> Any:
        from peft import LoraConfig

        return LoraConfig

    def peft_config(self, params: TrainConfig, **common: Any) -> Any:
        return self.config_class()(
            r=params.rank,
            lora_alpha=alpha_of(params),
            lora_dropout=params.dropout,
            target_modules=shortest_names(self.targets(params), self.modules),
            **common,
        )

    def to_peft(self, path: str, parameter: str, value: Tensor, params: TrainConfig) -> tuple[str, Tensor]:
        return f"lora_{parameter}.weight", value


class QLora(Lora):
    """LoRA whose base is held in NF4 with double quantisation."""

    spec = hyperparameters.QLORA


def taken_elsewhere(model: Any, names: Collection[str]) -> frozenset[str]:
    """Those of some names of linear layers that peft takes for a model's experts. transformers 5 stacks experts, and
    peft puts adapters there that are for layers called as theirs once were (`gate_proj`, say), whatever they are for.
    """
    return _by_peft(model, names) if _may_have_experts(model) else frozenset()  # peft takes two seconds to load


def _may_have_experts(model: Any) -> bool:
    """Whether a parameter is a stack of matrices, or the configuration speaks of experts."""
    stacked = any(parameter.dim() > 2 for parameter in model.parameters())
    return stacked or any("expert" in key for key in model.config.get_text_config().to_dict())


def _by_peft(model: Any, names: Collection[str]) -> frozenset[str]:
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = LoraConfig(target_modules=sorted(names))
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # some layers of an expert are among them, and others not
        return frozenset(names)
    return frozenset(names) - set(config.target_modules or ())
