"""How much of a step goes through the base at once, and how it is told that this was too much."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

Note = Callable[[str], object]  # told, in a line, what a person should know of


def silent(text: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Limits:
    """How many tokens go through the base at once: of one slot in training, of all in training, in evaluation.

    A slot's own are few enough that all lanes of a CPU together keep to the limit of all.
    """

    slot_tokens: int = 8192
    train_tokens: int = 32768
    eval_tokens: int = 8192


@contextmanager
def telling_full_memory() -> Iterator[None]:
    """A full memory that CUDA's driver or its libraries found is told as torch's allocator tells it.

    Raises:
        torch.OutOfMemoryError: memory is full.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if not any(word in str(error) for word in ("out of memory", "ALLOC_FAILED")):
            raise
        raise torch.OutOfMemoryError(str(error)) from error
