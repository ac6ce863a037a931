"""How much of a step goes through the base at once."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Limits:
    """How many tokens go through the base at once: of one slot in training, of all in training, in evaluation."""

    slot_tokens: int = 16384
    train_tokens: int = 32768
    eval_tokens: int = 8192

    def halved(self, texts: int) -> Limits:
        """For a slot whose texts, so many tokens together, do not fit at once."""
        return replace(self, slot_tokens=max(1, min(self.slot_tokens, texts) // 2))
