"""How much of a step goes through the base at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Note = Callable[[str], object]  # told, in a line, what a person should know of


def silent(text: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Limits:
    """How many tokens go through the base at once: of one slot in training, of all in training, in evaluation.

    A slot's own are few enough that all lanes of a CPU together keep to the limit of all. What fills rows up is beyond
    them: some 3 % at most on a GPU, fewer than 16 tokens a slot on a CPU.
    """

    slot_tokens: int = 8192
    train_tokens: int = 32768
    eval_tokens: int = 8192
