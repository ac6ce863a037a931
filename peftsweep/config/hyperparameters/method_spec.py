"""What a study file needs to know of a method: its name, its hyperparameters, and whether its base is in 4 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from peftsweep.config.frozen import Frozen

Names = Literal["auto"] | Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]
TARGET_MODULES = (
    "Layers to adapt, given by the ends of their names. "
    "`auto` is all linear layers for LoRA, `peft`'s own choice for IA³."
)


class MethodHyperparameters(Frozen):
    """The base of the hyperparameters that only some methods have."""

    def derived(self) -> dict[str, Any]:
        """Those that were left to follow from others, with the values that they get."""
        return {}


@dataclass(frozen=True)
class MethodSpec:
    """
    Attributes:
        name: what a study file calls the method.
        hyperparameters: a model of the keys that only some methods have, with their types, bounds and defaults.
        four_bit: whether the base is held in NF4.
        aliases: other libraries' names for these keys, for "did you mean".
    """

    name: str
    hyperparameters: type[MethodHyperparameters]
    four_bit: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)
