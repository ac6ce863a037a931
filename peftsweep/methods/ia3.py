"""IA³: learned vectors scale keys, values and the feed-forward's inner activations (Liu et al., arXiv:2205.05638)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from peftsweep.config import TrainConfig
from peftsweep.config.hyperparameters import ia3 as hyperparameters
from peftsweep.errors import ModelError
from peftsweep.layers import LayerSpec, PackedLayer, Segments
from peftsweep.methods.adapter_config import AdapterFile, Name
from peftsweep.methods.method import Method, select, shortest_names
from peftsweep.safe_text.quoting import quoted


class PackedIA3(PackedLayer):
    """scale: [K, d], with d = d_in where the input is scaled (feed-forward), d_out where the output is."""

    def __init__(self, spec: LayerSpec, feedforward: bool) -> None:
        super().__init__(spec)
        self.feedforward = feedforward

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"scale": (self.in_features if self.feedforward else self.out_features,)}

    def trial_part(self, name: str, params: TrainConfig) -> tuple[slice, ...]:
        return (slice(None),)

    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> dict[str, Tensor]:
        """Ones, as in the paper, so the first step sees the unchanged base."""
        self.scales[slot] = 1.0
        return {"scale": torch.ones(self.shapes()["scale"])}

    def forward(self, x: Tensor) -> Tensor:
        if self.feedforward:
            return self.inner(self.scaled(x))  # type: ignore[no-any-return]
        return self.scaled(self.inner(x))

    def scaled(self, x: Tensor) -> Tensor:
        if self.context.fused:
            from peftsweep.methods.scaling_kernels import scale_rows

            rows = x.reshape(-1, x.shape[-1]).contiguous()
            out: Tensor = scale_rows(rows, self.stacked["scale"], self.factor, self.context.tiles, self.context.edges)
            return out.view_as(x)
        segments = self.context.segments
        if not any(self.active[slot] for slot in segments.slots):
            return x
        flat = x.reshape(-1, x.shape[-1])
        out = _ScaleBySlot.apply(flat, self.stacked["scale"], self, segments)  # type: ignore[no-untyped-call]
        return out.view_as(x)


class _ScaleBySlot(torch.autograd.Function):
    """x [rows, d] times its slot's vector. The vector's gradient is added directly to the stacked `.grad`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, layer: PackedIA3, segments: Segments) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.segments = layer, segments
        out = x.clone()
        for slot, start, stop in segments.by_slot():
            if layer.active[slot]:
                out[start:stop] *= scale[slot].to(x.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        layer, segments = ctx.layer, ctx.segments
        scale = layer.stacked["scale"]
        to_x = grad.clone() if ctx.needs_input_grad[0] else None
        for slot, start, stop in segments.by_slot():
            if layer.active[slot]:
                scale.grad[slot] += (grad[start:stop] * x[start:stop]).sum(0, dtype=scale.dtype)
                if to_x is not None:
                    to_x[start:stop] *= scale[slot].to(x.dtype)
        return to_x, None, None, None


class IA3File(AdapterFile):
    """What IA³ writes to adapter_config.json."""

    feedforward_modules: list[Name] | None = None
    init_ia3_weights: Literal[True] = True


class IA3(Method):
    spec = hyperparameters.IA3
    adapter_file = IA3File

    def targets(self, params: TrainConfig) -> tuple[str, ...]:
        """peft's own choice for the architecture unless the trial names some."""
        wanted = self._defaults("TARGET") if params.target_modules == "auto" else params.target_modules
        return select(self.linears, wanted)

    def feedforward(self, params: TrainConfig) -> tuple[str, ...]:
        """Those of the targets whose input is scaled instead of their output."""
        if params.feedforward_modules != "auto":
            named = select(self.linears, params.feedforward_modules, "feedforward_modules")
        else:
            defaults = self._defaults("FEEDFORWARD")
            named = tuple(path for path in self.linears if any(path.endswith("." + name) for name in defaults))
        targets = set(self.targets(params))  # the space may have sets of targets without some of the named
        return tuple(path for path in named if path in targets)

    def layer(self, spec: LayerSpec, candidates: Sequence[TrainConfig]) -> PackedIA3:
        name = spec.name
        sides = {name in self.feedforward(params) for params in candidates if name in self.targets(params)}
        if len(sides) > 1:
            raise ModelError(f"feedforward_modules: {name} is among them in some trials only; fix it in `train`")
        return PackedIA3(spec, sides.pop())

    @classmethod
    def config_class(cls) -> Any:
        from peft import IA3Config

        return IA3Config

    def peft_config(self, params: TrainConfig, **common: Any) -> Any:
        targets, feedforward = self.targets(params), self.feedforward(params)
        names, inputs = shortest_names(targets, self.modules), shortest_names(feedforward, self.modules)
        if not set(inputs) <= set(names):  # peft wants them to be among the targets by name
            names, inputs = sorted(targets), sorted(feedforward)
        return self.config_class()(target_modules=names, feedforward_modules=inputs, **common)

    def to_peft(self, path: str, parameter: str, value: Tensor, params: TrainConfig) -> tuple[str, Tensor]:
        """peft keeps a row [1, d_in] where the input is scaled, a column [d_out, 1] where the output is."""
        return "ia3_l", value[None, :] if path in self.feedforward(params) else value[:, None]

    def _defaults(self, kind: str) -> list[str]:
        from peft.utils import constants

        table: dict[str, list[str]] = getattr(constants, f"TRANSFORMERS_MODELS_TO_IA3_{kind}_MODULES_MAPPING")
        names = table.get(self.architecture)
        ours = {name for name in names or () if any(path.endswith(f".{name}") for path in self.linears)}
        if names is None or ours != set(names):
            what = "no default layers" if names is None else "default layers that this base does not have"
            raise ModelError(
                f"{self.name}: peft has {what} for {quoted(self.architecture)}; name them by "
                "train.target_modules and train.feedforward_modules"
            )
        return names
