"""Which methods a study file may name, and which hyperparameters each has.

A method's code is in `methods/`; its hyperparameters are here because commands that never train check study files and
records too, and must start without torch and peft (which take seconds to import). `methods.register` adds a method of
one's own to both.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from peftsweep.config.hyperparameters.common import CommonHyperparameters
from peftsweep.config.hyperparameters.ia3 import IA3, IA3Hyperparameters
from peftsweep.config.hyperparameters.lora import LORA, QLORA, LoraHyperparameters
from peftsweep.config.hyperparameters.method_spec import MethodSpec, Names
from peftsweep.config.messages import Mistakes, none_of
from peftsweep.system.suggest import nearest

SPECS: dict[str, MethodSpec] = {spec.name: spec for spec in (LORA, QLORA, IA3)}


class BuiltInHyperparameters(IA3Hyperparameters, LoraHyperparameters):
    """Those that the type checker knows in every `TrainConfig`. A new method need not be here: see `train_config`."""


def unused_hyperparameters(method: str | None) -> frozenset[str]:
    """The hyperparameters that only other methods have, such as `rank` for a method without matrices.

    Args:
        method: if it is unknown or None, the result is the hyperparameters that no built-in method has.
    """
    own = SPECS[method].hyperparameters if method in SPECS else BuiltInHyperparameters
    every = frozenset(name for spec in SPECS.values() for name in spec.hyperparameters.model_fields)
    return every - own.model_fields.keys() - CommonHyperparameters.model_fields.keys()


def four_bit_methods() -> str:
    """The methods that hold their base in 4 bits, for messages."""
    return " or ".join(name for name, spec in SPECS.items() if spec.four_bit)


def _known(name: Any) -> Any:
    if name not in tuple(SPECS):
        own = "" if nearest(name, SPECS) else "; if it is a method of your own, import its module first"
        raise Mistakes([((), none_of(list(SPECS), name) + own)])
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
