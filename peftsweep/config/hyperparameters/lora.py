"""The hyperparameters of LoRA, and of QLoRA, which is LoRA on a base in 4 bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field

from peftsweep.config.hyperparameters.method_spec import TARGET_MODULES, MethodHyperparameters, MethodSpec, Names


class LoraHyperparameters(MethodHyperparameters):
    rank: int = Field(default=16, ge=1)
    """LoRA's rank r, the inner dimension of its two matrices."""
    alpha: float | None = Field(default=None, gt=0)
    """LoRA's α: its term is scaled by α/r. By default twice the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the input of LoRA's term. The base itself has no dropout."""
    target_modules: Names = Field(default="auto", description=TARGET_MODULES)

    def derived(self) -> dict[str, Any]:
        return {"alpha": float(default_alpha(self.rank))} if self.alpha is None else {}


def default_alpha(rank: int) -> int:
    return 2 * rank


ALIASES = {"r": "rank", "lora_r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"}
LORA = MethodSpec("lora", LoraHyperparameters, aliases=ALIASES)
QLORA = replace(LORA, name="qlora", four_bit=True)
