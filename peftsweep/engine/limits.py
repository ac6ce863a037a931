"""How many tokens go through the base at once?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Say = Callable[[str], object]  # called with a line that a person should read


def silent(text: str) -> None:
    """Ignore a note."""


@dataclass(frozen=True)
class Limits:
    """The largest number of tokens in a pass: of one slot in training, of all slots in training, and in evaluation.

    A slot's own limit is low enough that all of a CPU's workers together keep to that of all slots. Padding comes
    on top: on a GPU 255 tokens at most, or some 3 % of more than 8,192; on a CPU fewer than 16 a slot.
    """

    slot_tokens: int = 8192
    train_tokens: int = 32768
    eval_tokens: int = 8192
