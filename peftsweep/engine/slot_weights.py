"""Where do the trained parameters of the slots live? A slot is one row of a matrix.

Row k of `weights` [K, P] holds every trained number of slot k. Gradients and optimizer moments have the same layout.
The packed layers see views of these matrices, stacked as [K, …]. So a slot is cleared, saved or clipped as one vector,
and code that works on one slot cannot touch another.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import torch
import torch._dynamo
from torch import Tensor

from peftsweep.config import TrainConfig
from peftsweep.errors import MethodError
from peftsweep.layers import PackedLayer


@dataclass(frozen=True)
class ParamSlice:
    """Where in a row a layer's parameter is stored."""

    layer: PackedLayer
    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def key(self) -> str:
        return f"{self.layer.name}:{self.name}"

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)

    def of(self, row: Tensor) -> Tensor:
        """The parameter as a view of a row [P], padded to the pack's shape."""
        return row[self.start : self.stop].view(self.shape)


@dataclass(frozen=True)
class ParamGroup:
    """Neighbouring columns that the optimizer updates alike, like a parameter group of torch's optimizers.

    Attributes:
        decays: whether weight decay applies to them. Biases are not decayed, as in transformers' Trainer.
        own_rate: one of the parameters, if their learning rate is a multiple of the trial's.
    """

    columns: slice
    decays: bool
    own_rate: ParamSlice | None

    def rate_factor(self, params: TrainConfig) -> float:
        """What the learning rate of a trial with these hyperparameters is multiplied by."""
        return 1.0 if self.own_rate is None else self.own_rate.layer.rate_factor(self.own_rate.name, params)


class SlotParameters:
    """Weights, gradients and the optimizer's moments of K slots over the packed layers, fp32.

    Attributes:
        weights, grads: [K, P].
        moments: exp_avg and exp_avg_sq [K, P], by torch's names; SGD has its momentum in the first.
        groups: the columns, by how they are updated.
    """

    def __init__(self, layers: Sequence[PackedLayer], slots: int, device: torch.device) -> None:
        found = [(layer, name, shape) for layer in layers for name, shape in layer.shapes().items()]
        for layer in layers:
            names = layer.shapes().keys()
            if wrong := [name for name in names if not name.isidentifier()]:
                raise MethodError(f"{_origin(layer)}: shapes() names a parameter {wrong[0]!r}: use a Python identifier")
            if unknown := sorted(layer.own_rates - names):
                raise MethodError(f"{_origin(layer)}: own_rates has {unknown[0]!r}, which shapes() does not name")
        found.sort(key=lambda item: _group_key(item[0], item[1]))
        self.param_slices: list[ParamSlice] = []
        at = 0
        for layer, name, shape in found:
            self.param_slices.append(ParamSlice(layer, name, at, shape))
            at += math.prod(shape)
        self.layers = tuple(layers)
        self.groups: list[ParamGroup] = []
        for (rate, bias), members in groupby(self.param_slices, lambda param: _group_key(param.layer, param.name)):
            first, *rest = members
            columns = slice(first.start, (rest[-1] if rest else first).stop)
            self.groups.append(ParamGroup(columns, not bias, first if rate else None))
        self.weights = torch.zeros(slots, at, device=device)
        self.grads = torch.zeros(slots, at, device=device)
        self.moments = {name: torch.zeros(slots, at, device=device) for name in ("exp_avg", "exp_avg_sq")}
        for layer in layers:
            layer.bind({param.name: self._view(param, slots) for param in self.param_slices if param.layer is layer})

    def _view(self, param: ParamSlice, slots: int) -> Tensor:
        columns, shape = slice(param.start, param.stop), (slots, *param.shape)
        leaf = self.weights[:, columns].view(shape).detach().requires_grad_()
        leaf.grad = self.grads[:, columns].view(shape)
        torch._dynamo.mark_static(leaf)  # its shape never changes while the pack lives
        return leaf

    def clear(self, slot: int) -> None:
        """Set a slot's row to zero, so that it adapts nothing. Overwritten, not multiplied: a NaN goes, too."""
        for matrix in (self.weights, self.grads, *self.moments.values()):
            matrix[slot].zero_()
        for layer in self.layers:
            layer.clear(slot)

    def start(self, slot: int, params: TrainConfig, adapted: frozenset[str], generator: torch.Generator) -> None:
        """Draw a new trial's initial values into a cleared slot, layer by layer, from the trial's own generator. They
        are copied as one vector, because each copy to a GPU waits for all work that is running there.

        Raises:
            MethodError: a layer gives a value for no parameter of its own, or of another shape.
        """
        first: dict[str, dict[str, Tensor]] = {}
        for layer in self.layers:
            if layer.name in adapted:
                layer.active[slot] = True
                first[layer.name] = layer.start(slot, params, generator)
        row = torch.zeros(self.weights.shape[1])
        for param in self.param_slices:
            values = first.get(param.layer.name, {}).pop(param.name, None)
            if values is not None:
                part = param.of(row)[param.layer.trial_part(param.name, params)]
                if part.shape != values.shape:
                    shapes = f"of shape {tuple(values.shape)}; its trial_part() has {tuple(part.shape)}"
                    raise MethodError(f"{_origin(param.layer)}: start() gives a value for {param.name!r} {shapes}")
                part.copy_(values)
        for layer in self.layers:
            for name in first.get(layer.name, {}):
                raise MethodError(f"{_origin(layer)}: start() gives a value for {name!r}, which shapes() does not name")
        self.weights[slot].copy_(row)

    def split(self, slot: int, row: Tensor, params: TrainConfig) -> dict[str, Tensor]:
        """Split a row vector of `slot` into views of the trial's true shapes, by `path:parameter`."""
        return {
            param.key: param.of(row)[param.layer.trial_part(param.name, params)]
            for param in self.param_slices
            if param.layer.active[slot]
        }


def _origin(layer: PackedLayer) -> str:
    return f"{type(layer).__module__}.{type(layer).__qualname__}"


def _group_key(layer: PackedLayer, name: str) -> tuple[str, bool]:
    """Equal for parameters that are updated alike. Sorting by it is stable and puts biases last."""
    return f"{type(layer).__qualname__}.{name}" if name in layer.own_rates else "", name == "bias"


@contextmanager
def any_layout() -> Iterator[None]:
    """Silence autograd's warning that gradients have another memory layout than it would choose.

    Enter this only in the thread that all others wait for: Python's warning filters are shared by all threads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout contract")
        yield
