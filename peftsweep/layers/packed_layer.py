"""A packed layer: one frozen linear layer and the adapters of all slots, stacked along dim 0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftsweep.config import TrainConfig
from peftsweep.layers.context import ForwardContext


@dataclass(frozen=True)
class LayerSpec:
    """What a packed layer is made of.

    Attributes:
        inner: the base's own layer.
        name: its path in the base model.
        index: its place among the packed layers, which is a part of the dropout seed.
        slots: K.
    """

    inner: nn.Module
    name: str
    index: int
    context: ForwardContext
    slots: int


class PackedLayer(nn.Module, ABC):
    """One frozen layer with the adapters of all slots. A subclass says which parameters they have, how these start and
    what they do.

    Args:
        inner: computes in place of the base's own layer, for methods that change the base's weights (the base itself is
            never written to).
        shared: frozen tensors that all slots of the layer read.

    Attributes:
        own_rates: names of parameters that have a learning rate of their own; see `rate_factor`.
        rank_axes: names of parameters that grow with the trial's rank, and along which axis of their shape.
        slot_ranks: by slot, the rank of its trial, if parameters grow with it; see `trial_part`.
        scales: by slot, what its adapter is multiplied by; zero while it does not adapt the layer.
        dropouts: by slot; the pack's own list.
        factor, ranks: [K] the scales and the ranks of the slots' trials (int32), on the pack's device for kernels.
    """

    own_rates: ClassVar[frozenset[str]] = frozenset()
    rank_axes: ClassVar[Mapping[str, int]] = MappingProxyType({})

    def __init__(
        self, spec: LayerSpec, *, inner: nn.Module | None = None, shared: Mapping[str, Tensor] = MappingProxyType({})
    ) -> None:
        super().__init__()
        self.spec = spec
        self.inner = inner = spec.inner if inner is None else inner
        self.name, self.index, self.context = spec.name, spec.index, spec.context
        self.shared = {name: tensor.to(inner.weight.device) for name, tensor in shared.items()}  # type: ignore[arg-type]
        self.active = [False] * spec.slots  # whether a slot's trial adapts this layer
        self.slot_ranks, self.scales, self.dropouts = [0] * spec.slots, [0.0] * spec.slots, spec.context.dropouts
        self.factor = self.ranks = torch.empty(0)
        self.stacked: dict[str, Tensor] = {}  # leaves [K, …]; torch.compile would specialise on an nn.Parameter's shape
        self.grads: dict[str, Tensor] = {}  # their gradients, which passes add to
        # The frozen weight for kernels: [d_out, d_in]; or NF4, two values a byte, and a scale for each 64 values.
        self.frozen: tuple[Tensor, Tensor | None] = (inner.weight, None)  # type: ignore[assignment]

    @property
    def in_features(self) -> int:
        return int(self.inner.in_features)  # type: ignore[arg-type]

    @property
    def out_features(self) -> int:
        return int(self.inner.out_features)  # type: ignore[arg-type]

    @property
    def weight(self) -> Tensor:
        """The frozen layer's weight. Some bases read it (mostly its dtype), and `peft`'s layers have it too."""
        return self.inner.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        return self.inner.bias  # type: ignore[return-value]

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter of one slot, padded to the widest trial."""

    @abstractmethod
    def trial_part(self, name: str, params: TrainConfig) -> tuple[slice, ...]:
        """The part of a slot's padded parameter that a trial with these hyperparameters uses."""

    @classmethod
    def rate_factor(cls, name: str, params: TrainConfig) -> float:
        """What the trial's learning rate is multiplied by for one of the `own_rates`, in all layers of the class."""
        return 1.0

    @abstractmethod
    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> dict[str, Tensor]:
        """Begin a new trial in the slot: note its scale, and return initial values of its parameters, on the CPU and
        unpadded; parameters that are left out start at zero. Several slots may start at the same time, in threads, so
        this reads and writes only what is the slot's own."""

    def bind(self, stacked: Mapping[str, Tensor]) -> None:
        """Use these stacked parameters, which are on the pack's device, as are `factor` and `ranks` by then."""
        self.stacked = dict(stacked)
        # `data` counts its versions apart: autograd would refuse a layer after another one has added to its own part.
        self.grads = {name: leaf.grad.data for name, leaf in stacked.items() if leaf.grad is not None}

    def clear(self, slot: int) -> None:
        """Forget the slot's trial. Its parameters are zero already."""
        self.active[slot], self.scales[slot] = False, 0.0
