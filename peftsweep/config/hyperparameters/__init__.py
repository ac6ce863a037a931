"""Which methods a study file may name, and which hyperparameters each has.

A method's code is in `methods/`; its hyperparameters are here because commands that never train check study files and
records too, and must start without torch and peft (which take seconds to import). `methods.register` adds a method of
one's own to both.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from peftsweep.config.hyperparameters.ia3 import IA3, IA3Hyperparameters
from peftsweep.config.hyperparameters.lora import LORA, QLORA, LoraHyperparameters
from peftsweep.config.hyperparameters.method_spec import MethodSpec, Names
from peftsweep.config.messages import Mistakes, none_of

SPECS: dict[str, MethodSpec] = {spec.name: spec for spec in (LORA, QLORA, IA3)}


class BuiltInHyperparameters(IA3Hyperparameters, LoraHyperparameters):
    """Those of all methods that come with the package."""


def unused_hyperparameters(method: str) -> frozenset[str]:
    """The hyperparameters of `train` that the method does not use, such as `rank` for one without matrices."""
    every = frozenset(name for spec in SPECS.values() for name in spec.hyperparameters.model_fields)
    return every - (SPECS[method].hyperparameters.model_fields.keys() if method in SPECS else every)


def four_bit_methods() -> str:
    """The methods that hold their base in 4 bits, for messages."""
    return " or ".join(name for name, spec in SPECS.items() if spec.four_bit)


def _known(name: Any) -> Any:
    if name not in tuple(SPECS):
        raise Mistakes([((), none_of(list(SPECS), name))])
    return name


MethodName = Annotated[str, BeforeValidator(_known), Field(examples=list(SPECS))]

__all__ = [
    "SPECS",
    "BuiltInHyperparameters",
    "MethodName",
    "MethodSpec",
    "Names",
    "four_bit_methods",
    "unused_hyperparameters",
]
