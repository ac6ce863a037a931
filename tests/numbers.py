"""What the pack promises about numbers (docs/pack.md), and the assertions that compare two trainings with it.

From the same weights, a step has the same loss and gradients up to rounding, on any processor. After a whole training
in float32, no such promise holds for a single weight: AdamW divides a gradient by its own size plus 1e-8, and where the
gradient is itself rounding noise, about 1e-9, chance decides how far the weight moves. A promise about all weights
together does hold: their distance, relative to how far training moved them. In float64, where noise is far below 1e-8,
a promise about each single weight holds too.
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
    """How far two trainings of the same trial may differ.

    Attributes:
        step: a step's loss and gradients from the same weights. For gradients: the norm of the difference, relative to
            the gradients' own norm.
        losses: the loss of each step of a whole training.
        weights: after a whole training, the norm of the difference, relative to the distance between the first and the
            last weights.
        weight: after a whole training, the difference of any single weight.

    Losses above one are compared relative to their size.
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


marked = False  # whether the current test is marked `numbers`; conftest.py sets it before each test


def hold(what: str, found: float, dtype: torch.dtype) -> None:
    """Check a deviation against the promise, and record it: `make numbers` prints the largest ones."""
    assert marked or dtype == torch.float64, "mark this test `numbers`: its result depends on the CPU's instructions"
    assert found <= getattr(PROMISED[dtype], what)
    if file := os.environ.get("PEFTSWEEP_DEVIATIONS"):
        with Path(file).open("a", encoding="utf-8") as noted:
            noted.write(f"{str(dtype).removeprefix('torch.')} {what} {found}\n")


def same_step(ours: tuple[float, Weights], theirs: tuple[float, Weights], dtype: torch.dtype) -> None:
    """Check a step's loss and gradients, from the same weights, against the promise."""
    (loss, gradients), (other_loss, other_gradients) = ours, theirs
    hold("step", _apart([loss], [other_loss]), dtype)
    same_gradients(gradients, other_gradients, dtype)


def same_gradients(ours: Weights, theirs: Weights, dtype: torch.dtype) -> None:
    """Check a step's gradients, from the same weights, against the promise."""
    hold("step", distance(ours, theirs) / norm(theirs.values()), dtype)


def same(ours: Tensor, theirs: Tensor, dtype: torch.dtype | None = None) -> None:
    """Check logits or gradients of one step, from the same weights, against the promise for products of this type."""
    assert ours.shape == theirs.shape
    apart = norm([ours.double() - theirs])
    hold("step", apart and apart / norm([theirs]), dtype or theirs.dtype)


def same_values(ours: Sequence[float], theirs: Sequence[float], dtype: torch.dtype = torch.float32) -> None:
    """Check losses or probabilities, from the same weights, against the promise."""
    hold("step", _apart(ours, theirs), dtype)


def same_weights(ours: Weights, theirs: Weights, first: Weights, dtype: torch.dtype) -> None:
    """Check the last weights of two trainings, from the same first weights, against the promise."""
    hold("weights", distance(ours, theirs) / distance(theirs, first), dtype)
    hold("weight", max(float((ours[key] - value).abs().max()) for key, value in theirs.items()), dtype)


def same_losses(ours: Sequence[float], theirs: Sequence[float], dtype: torch.dtype) -> None:
    """Check the losses of a whole training against the promise."""
    hold("losses", _apart(ours, theirs), dtype)


def same_training(ours: Watched, theirs: Watched, numbers: Iterable[int] | None = None) -> None:
    """Compare trials of one pack (by default all that ended) with the same trials in another."""
    assert ours.dtype == theirs.dtype and (numbers is not None or ours.last.keys() == theirs.last.keys())
    for number in theirs.last if numbers is None else numbers:
        assert distance(ours.first[number], theirs.first[number]) == 0.0
        same_losses(ours.trace[number], theirs.trace[number], ours.dtype)
        same_weights(ours.last[number], theirs.last[number], theirs.first[number], ours.dtype)


def _apart(ours: Any, theirs: Any) -> float:
    assert len(ours) == len(theirs)
    ours, theirs = np.array(ours), np.array(theirs)
    return float((np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))).max())  # NaN if any value is NaN, which fails


def distance(ours: Weights, theirs: Weights) -> float:
    """The norm of the difference of all weights."""
    assert ours.keys() == theirs.keys()
    return norm(ours[key] - value for key, value in theirs.items())


def norm(parts: Iterable[Tensor]) -> float:
    """The norm of all numbers in these tensors together."""
    return float(torch.stack([part.detach().double().square().sum() for part in parts]).sum().sqrt())


# Float64 ------------------------------------------------------------------------------------------------------------


def float64() -> AbstractContextManager[None]:
    """Within this context, code that asks for float32 gets float64: the pack, stock peft, and transformers, whose norms
    and rotary embeddings ask for float32 by name."""
    return _float32_is(torch.float64, Tensor.double)


def as_stored() -> AbstractContextManager[None]:
    """Within `float64`, restore float32, to read or write a file that holds float32."""
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
