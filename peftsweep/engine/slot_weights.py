"""Where do the trained parameters of the slots live? A slot is one row of a matrix.

Row k of `weights` [K, P] holds every trained number of slot k. Gradients and optimizer moments have the same layout.
The packed layers see views of these matrices, stacked as [K, …]. So a slot is cleared, saved or clipped as one vector,
and code that works on one slot cannot touch another.

Parameters that grow with a trial's rank come last, rank by rank: all that belongs to the first rank in every layer,
then all that belongs to the second. So a trial of rank 4 uses a short stretch of its row, whatever the widest rank.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch._dynamo
from torch import Tensor

from peftsweep.config import TrainConfig
from peftsweep.errors import MethodError, ModelError
from peftsweep.layers import PackedLayer

ALIGNED = 16  # columns: kernels read four at a time, and compiled code expects it
MOST = 2_000_000_000  # columns: kernels count them with 32 bits


@dataclass(frozen=True)
class ParamSlice:
    """Where in a row a layer's parameter is stored: its shape, and by strides and first column its elements."""

    layer: PackedLayer
    name: str
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def key(self) -> str:
        return f"{self.layer.name}:{self.name}"

    def of(self, row: Tensor) -> Tensor:
        """The parameter as a view of a row [P], padded to the pack's shape."""
        return row.as_strided(self.shape, self.strides, row.storage_offset() + self.start)


@dataclass(frozen=True)
class ParamGroup:
    """Neighbouring columns that the optimizer updates alike, like a parameter group of torch's optimizers.

    Attributes:
        decays: whether weight decay applies to them. Biases are not decayed, as in transformers' Trainer.
        own_rate: one of the parameters, if their learning rate is a multiple of the trial's.
        per_rank: number of columns of one rank; 0 if the parameters do not grow with the rank.
    """

    columns: slice
    decays: bool
    own_rate: ParamSlice | None
    per_rank: int

    def used(self, rank: int) -> slice:
        """The columns that a trial of this rank uses."""
        return slice(self.columns.start, self.columns.start + rank * self.per_rank) if self.per_rank else self.columns

    def rate_factor(self, params: TrainConfig) -> float:
        """What the learning rate of a trial with these hyperparameters is multiplied by."""
        return 1.0 if self.own_rate is None else self.own_rate.layer.rate_factor(self.own_rate.name, params)


@dataclass(frozen=True)
class Drawn:
    """A trial's initial values [P], and its rank in each group of parameters."""

    row: Tensor
    ranks: tuple[int, ...]


class SlotParameters:
    """Weights, gradients and the optimizer's moments of K slots over the packed layers, fp32.

    Attributes:
        weights, grads: [K, P].
        moments: exp_avg and exp_avg_sq [K, P], by torch's names; SGD has its momentum in the first.
        groups: the columns, by how they are updated.
        used: by slot, the columns of each group that its trial uses; all others are zero.
        updated: whether a GPU's kernels have updated them before.
    """

    def __init__(self, layers: Sequence[PackedLayer], slots: int, device: torch.device) -> None:
        self.layers = tuple(layers)
        self.param_slices, self.groups, columns = _layout(layers)
        self.weights = torch.zeros(slots, columns, device=device)
        self.grads = torch.zeros(slots, columns, device=device)
        self.moments = {name: torch.zeros(slots, columns, device=device) for name in ("exp_avg", "exp_avg_sq")}
        self.used: list[tuple[slice, ...]] = [()] * slots
        self.updated = False
        self._factors = torch.zeros(len(layers), _aligned(slots), device=device)[:, :slots]
        self._ranks = torch.zeros(slots, dtype=torch.int32, device=device)
        for layer, factor in zip(layers, self._factors, strict=True):
            leaves = {param.name: self._view(param, slots) for param in self.param_slices if param.layer is layer}
            layer.factor, layer.ranks = factor, self._ranks
            layer.bind(leaves)

    def _view(self, param: ParamSlice, slots: int) -> Tensor:
        shape, strides = (slots, *param.shape), (self.weights.shape[1], *param.strides)
        leaf = self.weights.as_strided(shape, strides, param.start).detach().requires_grad_()
        leaf.grad = self.grads.as_strided(shape, strides, param.start)
        torch._dynamo.mark_static(leaf)  # its shape never changes while the pack lives
        return leaf

    def clear(self, slot: int) -> None:
        """Set a slot's row to zero, so that it adapts nothing. Overwritten, not multiplied: a NaN goes, too."""
        for matrix in (self.weights, self.grads, *self.moments.values()):
            matrix[slot].zero_()
        self.used[slot] = ()
        self._factors[:, slot] = 0.0
        self._ranks[slot] = 0
        for layer in self.layers:
            layer.clear(slot)

    def start(self, slot: int, params: TrainConfig, adapted: frozenset[str], generator: torch.Generator) -> None:
        """Begin a trial in a cleared slot, with initial values from the trial's own generator.

        Raises:
            MethodError: a layer gives a value for no parameter of its own, or of another shape.
        """
        self.place(slot, self.drawn(slot, params, adapted, generator))

    def drawn(self, slot: int, params: TrainConfig, adapted: frozenset[str], generator: torch.Generator) -> Drawn:
        """A trial's initial values, drawn layer by layer. This touches the slot's own state alone, so threads can draw
        for several slots at once.

        Raises:
            MethodError: see `start`.
        """
        first: dict[str, dict[str, Tensor]] = {}
        ranks = tuple(_rank(self.param_slices, group, params) for group in self.groups)
        for layer in self.layers:
            if layer.name in adapted:
                layer.active[slot], layer.slot_ranks[slot] = True, max(ranks)
                first[layer.name] = layer.start(slot, params, generator)
        row = torch.from_numpy(np.zeros(self.weights.shape[1], np.float32))  # untouched parts take no memory
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
        return Drawn(row, ranks)

    def place(self, slot: int, drawn: Drawn) -> None:
        """Put a trial's initial values into its slot: as one vector, because each copy to a GPU waits for all work
        that is running there."""
        self.used[slot] = tuple(group.used(rank) for group, rank in zip(self.groups, drawn.ranks, strict=True))
        stop = self.stop(slot)
        self.weights[slot, :stop].copy_(drawn.row[:stop])
        self._factors[:, slot].copy_(torch.tensor([layer.scales[slot] for layer in self.layers]))
        self._ranks[slot] = max(drawn.ranks)

    def stop(self, slot: int) -> int:
        """The column after the last one that the slot's trial uses."""
        return max((columns.stop for columns in self.used[slot]), default=0)

    def split(self, slot: int, row: Tensor, params: TrainConfig) -> dict[str, Tensor]:
        """Split a row vector of `slot` into views of the trial's true shapes, by `path:parameter`."""
        return {
            param.key: param.of(row)[param.layer.trial_part(param.name, params)]
            for param in self.param_slices
            if param.layer.active[slot]
        }


def _layout(layers: Sequence[PackedLayer]) -> tuple[list[ParamSlice], list[ParamGroup], int]:
    """Where each parameter is stored, the groups, and the number of columns. Each group starts at a multiple of
    `ALIGNED`, and biases come last of those that do not grow with the rank.

    Raises:
        MethodError: a layer's names are wrong.
        ModelError: there are more than `MOST`.
    """
    found = [(_group_key(layer, name, shape), layer, name, shape) for layer in layers for name, shape in _shapes(layer)]
    found.sort(key=lambda item: item[0])
    slices: list[ParamSlice] = []
    groups: list[ParamGroup] = []
    columns = 0
    for (ranks, rate, bias), members in groupby(found, lambda item: item[0]):
        start = at = columns = _aligned(columns)
        named = list(members)
        # Columns of each, or those of one rank, aligned: compiled code would copy what is not, and gradients with it.
        sizes = [_aligned(math.prod(shape) // (ranks or 1), 4) for *_, shape in named]
        for (_, layer, name, shape), size in zip(named, sizes, strict=True):
            strides = _strides(shape, layer.rank_axes.get(name), sum(sizes))
            slices.append(ParamSlice(layer, name, at, shape, strides))
            at += size
        columns = start + sum(sizes) * (ranks or 1)
        own_rate = slices[-len(named)] if rate else None
        groups.append(ParamGroup(slice(start, columns), not bias, own_rate, sum(sizes) if ranks else 0))
    if columns > MOST:
        many = f"a trial would train {columns:,} parameters, and a pack takes up to {MOST:,}"
        raise ModelError(f"{many}: lower the rank, or adapt fewer layers")
    return slices, groups, _aligned(columns)


def _shapes(layer: PackedLayer) -> Iterable[tuple[str, tuple[int, ...]]]:
    shapes = layer.shapes()
    if wrong := [name for name in shapes if not name.isidentifier()]:
        raise MethodError(f"{_origin(layer)}: shapes() names a parameter {wrong[0]!r}: use a Python identifier")
    if unknown := sorted(layer.own_rates - shapes.keys()):
        raise MethodError(f"{_origin(layer)}: own_rates has {unknown[0]!r}, which shapes() does not name")
    for name in layer.rank_axes.keys() & shapes.keys():
        axis, shape = layer.rank_axes[name], shapes[name]
        if not 0 <= axis < len(shape):
            raise MethodError(f"{_origin(layer)}: rank_axes has axis {axis} for {name!r}, whose shape is {shape}")
    return shapes.items()


def _strides(shape: tuple[int, ...], axis: int | None, columns: int) -> tuple[int, ...]:
    """Of a parameter whose parts along `axis`, if there is one, are so many columns apart."""
    rest = [size if i != axis else 1 for i, size in enumerate(shape)]
    return tuple(columns if i == axis else math.prod(rest[i + 1 :]) for i in range(len(shape)))


def _rank(slices: Iterable[ParamSlice], group: ParamGroup, params: TrainConfig) -> int:
    """The rank that a trial with these hyperparameters has in a group; 0 if the group does not grow with it."""
    if not group.per_rank:
        return 0
    rank = 0
    for param in slices:
        if group.columns.start <= param.start < group.columns.stop:
            axis = param.layer.rank_axes[param.name]
            _, stop, _ = param.layer.trial_part(param.name, params)[axis].indices(param.shape[axis])
            rank = max(rank, stop)
    return rank


def _aligned(columns: int, to: int = ALIGNED) -> int:
    return -(-columns // to) * to


def _origin(layer: PackedLayer) -> str:
    return f"{type(layer).__module__}.{type(layer).__qualname__}"


def _group_key(layer: PackedLayer, name: str, shape: tuple[int, ...]) -> tuple[int, str, bool]:
    """Equal for parameters that are updated alike. The first is the widest rank, or 0 if they do not grow with it."""
    ranks = shape[layer.rank_axes[name]] if name in layer.rank_axes else 0
    return ranks, f"{type(layer).__qualname__}.{name}" if name in layer.own_rates else "", name == "bias"


@contextmanager
def any_layout() -> Iterator[None]:
    """Silence autograd's warning that gradients have another memory layout than it would choose.

    Enter this only in the thread that all others wait for: Python's warning filters are shared by all threads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout contract")
        yield
