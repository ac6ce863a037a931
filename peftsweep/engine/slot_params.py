"""The trained state of all slots: a slot is a row.

Every trained number of slot k lies in row k of a matrix `weights` [K, P], its gradient and its moments in the same
place of others; the packed layers see views of them, stacked as [K, …]. So a slot is cleared, saved or clipped as one
vector, and whatever belongs to another slot cannot be touched by mistake.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch._dynamo
from torch import Tensor

from peftsweep.config import TrainConfig
from peftsweep.layers import PackedLayer


@dataclass(frozen=True)
class ParamSlice:
    """Where a layer's parameter lies in a row."""

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
        """The parameter within a row [P], padded."""
        return row[self.start : self.stop].view(self.shape)


class SlotParameters:
    """Weights, gradients and the optimizer's moments of K slots over the packed layers, fp32.

    Attributes:
        weights, grads: [K, P].
        moments: exp_avg and exp_avg_sq [K, P], by torch's names; SGD has its momentum in the first.
        cuts: columns, and whether they are under weight decay: biases, which come last, are not (as transformers'
            Trainer has it).
    """

    def __init__(self, layers: Sequence[PackedLayer], slots: int, device: torch.device) -> None:
        found = [(layer, name, shape) for layer in layers for name, shape in layer.shapes().items()]
        found.sort(key=lambda item: item[1] == "bias")  # stable: biases last
        self.places: list[ParamSlice] = []
        at = 0
        for layer, name, shape in found:
            self.places.append(ParamSlice(layer, name, at, shape))
            at += math.prod(shape)
        self.layers = tuple(layers)
        decayed = sum(math.prod(shape) for _, name, shape in found if name != "bias")
        cuts = ((slice(0, decayed), True), (slice(decayed, at), False))
        self.cuts = [(cut, decays) for cut, decays in cuts if cut.start < cut.stop]
        self.weights = torch.zeros(slots, at, device=device)
        self.grads = torch.zeros(slots, at, device=device)
        self.moments = {name: torch.zeros(slots, at, device=device) for name in ("exp_avg", "exp_avg_sq")}
        for layer in layers:
            layer.bind({place.name: self._view(place, slots) for place in self.places if place.layer is layer})

    def _view(self, place: ParamSlice, slots: int) -> Tensor:
        cut, shape = slice(place.start, place.stop), (slots, *place.shape)
        leaf = self.weights[:, cut].view(shape).detach().requires_grad_()
        leaf.grad = self.grads[:, cut].view(shape)
        torch._dynamo.mark_static(leaf)  # of one shape as long as the pack lives
        return leaf

    def clear(self, slot: int) -> None:
        """An empty slot: all zero, adapting nothing. Selected, not multiplied: a NaN goes too."""
        for matrix in (self.weights, self.grads, *self.moments.values()):
            matrix[slot].zero_()
        for layer in self.layers:
            layer.clear(slot)

    def start(self, slot: int, params: TrainConfig, adapted: frozenset[str], generator: torch.Generator) -> None:
        """A new trial's first values in a cleared slot, drawn layer by layer from its own generator. They travel as one
        vector, for each copy to a GPU waits for all work under way there."""
        first: dict[str, dict[str, Tensor]] = {}
        for layer in self.layers:
            if layer.name in adapted:
                layer.active[slot] = True
                first[layer.name] = layer.start(slot, params, generator)
        row = torch.zeros(self.weights.shape[1])
        for place in self.places:
            values = first.get(place.layer.name, {}).get(place.name)
            if values is not None:
                place.of(row)[place.layer.trial_part(place.name, params)].copy_(values)
        self.weights[slot].copy_(row)

    def split(self, slot: int, row: Tensor, params: TrainConfig) -> dict[str, Tensor]:
        """A vector of row `slot` as named tensors of the trial's true shapes: views, by `path:parameter`."""
        return {
            place.key: place.of(row)[place.layer.trial_part(place.name, params)]
            for place in self.places
            if place.layer.active[slot]
        }


@contextmanager
def any_layout() -> Iterator[None]:
    """Without autograd's warning that it would rather have gradients of another layout than the stack's.

    For the thread that all others wait for: Python's filters are of all threads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout contract")
        yield
