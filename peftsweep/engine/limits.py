"""How much of a step goes through the base at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How many tokens go through the base at once: of one slot in training, of all in training, in evaluation."""

    slot_tokens: int = 16384
    train_tokens: int = 32768
    eval_tokens: int = 8192
