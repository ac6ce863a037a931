"""What the pack promises about numbers, as docs/pack.md has it, and how tests hold two trainings to it.

From the same weights, a step has the same loss and gradients but for rounding, on any processor. Of each weight after a
whole training no such promise can be made in float32: AdamW divides a gradient by its own size plus 1e-8, and where the
gradient is itself rounding noise, of some 1e-9, chance decides how far the weight moves. A promise of all weights
together does hold: how far apart they are, relative to the way they went. In float64, where noise is far below 1e-8,
one of each weight holds too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from tests.packs import Watched

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Promise:
    """How far apart two of the same may be.

    Attributes:
        step: a step's loss and gradients from the same weights. The norm of the gradients' difference, of their own.
        losses: those of each step of a whole training.
        weights: after it, the norm of the difference, of the way from the first weights to the last.
        weight: a single one of them.

    Losses above one are held relative to their size.
    """

    step: float
    losses: float
    weights: float
    weight: float


PROMISED = {
    torch.float64: Promise(step=1e-9, losses=1e-9, weights=1e-9, weight=1e-9),
    torch.float32: Promise(step=1e-5, losses=2e-4, weights=5e-3, weight=inf),
    torch.bfloat16: Promise(step=1e-2, losses=2e-2, weights=1e-1, weight=inf),
}


marked = False  # whether the present test is marked `numbers`; conftest.py says so before each


def hold(what: str, found: float, dtype: torch.dtype) -> None:
    """Hold a deviation to the promise. `make numbers`, which runs what is marked, shows the largest of all."""
    assert marked or dtype == torch.float64, "mark this test `numbers`: instructions decide how it comes out"
    assert found <= getattr(PROMISED[dtype], what)
    if file := os.environ.get("PEFTSWEEP_DEVIATIONS"):
        with Path(file).open("a", encoding="utf-8") as noted:
            noted.write(f"{str(dtype).removeprefix('torch.')} {what} {found}\n")


def same_step(ours: tuple[float, Weights], theirs: tuple[float, Weights], dtype: torch.dtype) -> None:
    """Hold a step's loss and gradients from the same weights to the promise."""
    (loss, gradients), (other_loss, other_gradients) = ours, theirs
    hold("step", _apart([loss], [other_loss]), dtype)
    same_gradients(gradients, other_gradients, dtype)


def same_gradients(ours: Weights, theirs: Weights, dtype: torch.dtype) -> None:
    """Hold a step's gradients from the same weights to the promise."""
    hold("step", distance(ours, theirs) / norm(theirs.values()), dtype)


def same(ours: Tensor, theirs: Tensor, dtype: torch.dtype | None = None) -> None:
    """Hold what a step makes of the same weights (logits, gradients) to the promise, for products of this type."""
    assert ours.shape == theirs.shape
    apart = norm([ours.double() - theirs])
    hold("step", apart and apart / norm([theirs]), dtype or theirs.dtype)


def same_values(ours: Sequence[float], theirs: Sequence[float], dtype: torch.dtype = torch.float32) -> None:
    """Hold losses and probabilities that were made of the same weights to the promise."""
    hold("step", _apart(ours, theirs), dtype)


def same_weights(ours: Weights, theirs: Weights, first: Weights, dtype: torch.dtype) -> None:
    """Hold the last weights of two trainings from the same first ones to the promise."""
    hold("weights", distance(ours, theirs) / distance(theirs, first), dtype)
    hold("weight", max(float((ours[key] - value).abs().max()) for key, value in theirs.items()), dtype)


def same_losses(ours: Sequence[float], theirs: Sequence[float], dtype: torch.dtype) -> None:
    """Hold the losses of a whole training to the promise."""
    hold("losses", _apart(ours, theirs), dtype)


def same_training(ours: Watched, theirs: Watched, numbers: Iterable[int] | None = None) -> None:
    """Hold trials of one pack (all that ended, unless said) to the same ones in another."""
    assert ours.dtype == theirs.dtype and (numbers is not None or ours.last.keys() == theirs.last.keys())
    for number in theirs.last if numbers is None else numbers:
        assert distance(ours.first[number], theirs.first[number]) == 0.0
        same_losses(ours.trace[number], theirs.trace[number], ours.dtype)
        same_weights(ours.last[number], theirs.last[number], theirs.first[number], ours.dtype)


def _apart(ours: Any, theirs: Any) -> float:
    assert len(ours) == len(theirs)
    ours, theirs = np.array(ours), np.array(theirs)
    return float((np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))).max())  # NaN of a NaN


def distance(ours: Weights, theirs: Weights) -> float:
    """The norm of the difference of all weights."""
    assert ours.keys() == theirs.keys()
    return norm(ours[key] - value for key, value in theirs.items())


def norm(parts: Iterable[Tensor]) -> float:
    """Of all numbers of these tensors together."""
    return float(torch.stack([part.detach().double().square().sum() for part in parts]).sum().sqrt())


# Float64 ------------------------------------------------------------------------------------------------------------


def float64() -> AbstractContextManager[None]:
    """Within it, whatever asks for float32 gets float64: the pack, stock peft, and transformers, whose norms and
    rotations ask for it by name."""
    return _float32_is(torch.float64, Tensor.double)


def as_stored() -> AbstractContextManager[None]:
    """Amid `float64`, float32 again: for a file that holds it."""
    return _float32_is(*_FLOAT32)


@contextmanager
def _float32_is(dtype: torch.dtype, cast: Callable[[Tensor], Tensor]) -> Iterator[None]:
    before: Any = torch.float32, Tensor.float
    _mean(dtype, cast)
    try:
        yield
    finally:
        _mean(*before)


def _mean(dtype: torch.dtype, cast: Any) -> None:
    torch.float32 = torch.float = dtype
    Tensor.float = cast  # type: ignore[method-assign]
    torch.set_default_dtype(dtype)


_FLOAT32: Any = torch.float32, Tensor.float
