"""Methods as a user of the package may write them. Each one uses different hooks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from peftsweep.config import MethodSpec, TrainConfig
from peftsweep.config.hyperparameters.lora import LoraHyperparameters
from peftsweep.config.hyperparameters.method_spec import MethodHyperparameters, Names
from peftsweep.layers import LayerSpec, PackedLayer
from peftsweep.methods import Method
from peftsweep.methods.adapter_config import AdapterFile
from peftsweep.methods.lora import Lora, LoraFile, PackedLora
from peftsweep.methods.method import select, shortest_names

# LoRA+ (arXiv:2402.12354): B has its own learning rate -------------------------------------------------------------


class LoraPlusHyperparameters(LoraHyperparameters):
    rate_ratio: float = Field(default=16.0, gt=0)
    """B's learning rate is this many times A's."""


class PackedLoraPlus(PackedLora):
    own_rates = frozenset({"B"})

    @classmethod
    def rate_factor(cls, name: str, params: TrainConfig) -> float:
        assert isinstance(params, LoraPlusHyperparameters)
        return params.rate_ratio


class LoraPlus(Lora):
    spec = MethodSpec("lora-plus", LoraPlusHyperparameters)
    packed_layer = PackedLoraPlus


# VeRA (arXiv:2310.11454): all slots and layers share frozen random matrices, with a vector behind each ---------------


class VeraHyperparameters(MethodHyperparameters):
    rank: int = Field(default=16, ge=1)
    target_modules: Names = "auto"
    start: float = 0.1
    """The first value of the inner vector."""


class PackedVera(PackedLayer):
    """lambda_d: [K, r], lambda_b: [K, d_out], around the shared A [r, d_in] and B [d_out, r]."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"lambda_d": (len(self.shared["A"]),), "lambda_b": (self.out_features,)}

    def trial_part(self, name: str, params: TrainConfig) -> tuple[slice, ...]:
        return (slice(None),)

    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> dict[str, Tensor]:
        assert isinstance(params, VeraHyperparameters)
        return {"lambda_d": torch.full(self.shapes()["lambda_d"], params.start)}

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        flat, parts = x.reshape(-1, x.shape[-1]), []
        for slot, start, stop in self.context.segments.by_slot():
            inner = (flat[start:stop] @ self.shared["A"].T) * self.stacked["lambda_d"][slot]
            parts.append((inner @ self.shared["B"].T) * self.stacked["lambda_b"][slot])
        return y + torch.cat(parts).view_as(y)


class VeraFile(AdapterFile):
    r: int
    vera_dropout: float
    d_initial: float
    projection_prng_key: int


class Vera(Method):
    spec = MethodSpec("vera", VeraHyperparameters)
    adapter_file = VeraFile
    key = 7

    def targets(self, params: TrainConfig) -> tuple[str, ...]:
        return self.linears if params.target_modules == "auto" else select(self.linears, params.target_modules)

    def __init__(self, model: nn.Module, linears: Sequence[str]) -> None:
        super().__init__(model, linears)
        layers: list[Any] = [model.get_submodule(path) for path in linears]
        self.largest = max(layer.out_features for layer in layers), max(layer.in_features for layer in layers)

    def projections(self, rank: int) -> tuple[Tensor, Tensor]:
        """A [r, largest] and B [largest, r], drawn as peft draws them."""
        from peft.tuners.vera.model import _kaiming_init

        generator = torch.Generator().manual_seed(self.key)
        return _kaiming_init((rank, self.largest[1]), generator), _kaiming_init((self.largest[0], rank), generator)

    def layer(self, spec: LayerSpec, candidates: Sequence[TrainConfig]) -> PackedVera:
        a, b = self.projections(candidates[0].rank)
        dtype = spec.inner.weight.dtype
        width, height = int(spec.inner.in_features), int(spec.inner.out_features)  # type: ignore[arg-type]
        return PackedVera(spec, shared={"A": a[:, :width].to(dtype), "B": b[:height].to(dtype)})  # type: ignore[arg-type]

    @classmethod
    def config_class(cls) -> Any:
        from peft import VeraConfig

        return VeraConfig

    def peft_config(self, params: TrainConfig, **common: Any) -> Any:
        names = shortest_names(self.targets(params), self.modules)
        assert isinstance(params, VeraHyperparameters)
        return self.config_class()(
            r=params.rank, target_modules=names, projection_prng_key=self.key, d_initial=params.start, **common
        )

    def to_peft(self, path: str, parameter: str, value: Tensor, params: TrainConfig) -> tuple[str, Tensor]:
        return f"vera_{parameter}", value

    def more_tensors(self, params: TrainConfig) -> Mapping[str, Tensor]:
        a, b = self.projections(params.rank)
        return {"base_model.vera_A": a, "base_model.vera_B": b}


# PiSSA (arXiv:2404.02948): it removes the first singular vectors from the base; the export needs them ---------------


class PackedPissa(PackedLora):
    """At the start, A and B hold what was subtracted from the base's weight."""

    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> dict[str, Tensor]:
        super().start(slot, params, generator)
        return {name: self.shared[name] for name in ("A", "B")}


class Pissa(Lora):
    """LoRA over W - s·B₀A₀ is LoRA of twice the rank over W: (B, -B₀) and (A, A₀)."""

    spec = MethodSpec("pissa", LoraHyperparameters)

    def layer(self, spec: LayerSpec, candidates: Sequence[TrainConfig]) -> PackedLora:
        (rank,) = {params.rank for params in candidates}
        weight: Tensor = spec.inner.weight.data  # type: ignore[assignment]
        u, s, v = torch.linalg.svd(weight)
        scale = s[:rank].sqrt() / math.sqrt(2)  # α/r is 2
        first = {"A": scale[:, None] * v[:rank], "B": u[:, :rank] * scale}
        rest = nn.Linear(weight.shape[1], weight.shape[0], bias=spec.inner.bias is not None, dtype=weight.dtype)
        rest.load_state_dict({**spec.inner.state_dict(), "weight": weight - 2 * first["B"] @ first["A"]})
        self.constants |= {f"{spec.name}:{name}": value.cpu() for name, value in first.items()}
        return PackedPissa(spec, rank, inner=rest.requires_grad_(False), shared=first)

    def peft_config(self, params: TrainConfig, **common: Any) -> Any:
        config = super().peft_config(params, **common)
        config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
        return config

    def to_peft(self, path: str, parameter: str, value: Tensor, params: TrainConfig) -> tuple[str, Tensor]:
        first = self.constants[f"{path}:{parameter}"].to(value.dtype)
        both = torch.cat([value, first]) if parameter == "A" else torch.cat([value, -first], dim=1)
        return super().to_peft(path, parameter, both, params)

    def from_peft(self, path: str, parameter: str, stored: Tensor, params: TrainConfig) -> Tensor:
        return stored[: params.rank] if parameter == "A" else stored[:, : params.rank]


# rsLoRA (arXiv:2312.03732): peft calls it LORA too ------------------------------------------------------------------


class PackedRsLora(PackedLora):
    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> dict[str, Tensor]:
        started = super().start(slot, params, generator)
        self.scales[slot] *= math.sqrt(params.rank)
        return started


class RsLoraFile(LoraFile):
    use_rslora: Literal[True]


class RsLora(Lora):
    """LoRA whose term is scaled by α/√r."""

    spec = MethodSpec("rslora", LoraHyperparameters)
    adapter_file, packed_layer = RsLoraFile, PackedRsLora

    def peft_config(self, params: TrainConfig, **common: Any) -> Any:
        return super().peft_config(params, use_rslora=True, **common)
