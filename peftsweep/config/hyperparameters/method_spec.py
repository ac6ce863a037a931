"""What a study file needs to know of a method: its name, its hyperparameters, and whether its base is in 4 bits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field, Strict, ValidationError

from peftsweep.config.hyperparameters.recordable import RecordableHyperparameters
from peftsweep.config.messages import explain
from peftsweep.config.yaml_lines import dotted
from peftsweep.errors import UsageError

_SomeNames = Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]
Names = Literal["auto"] | _SomeNames
TARGET_MODULES = (
    "Layers to adapt, given by the ends of their names. "
    "`auto` is all linear layers for LoRA, `peft`'s own choice for IA³."
)


class MethodHyperparameters(RecordableHyperparameters):
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

    Raises:
        UsageError: the name is no word, or a hyperparameter has no default, or a type or default that cannot be
            recorded.
    """

    name: str
    hyperparameters: type[MethodHyperparameters]
    four_bit: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", self.name):
            raise UsageError(f"method {self.name!r}: its name may have letters, digits and - _ . between them")
        fields = self.hyperparameters.model_fields.items()
        wrong = [f"{name}: it needs a default" for name, field in fields if field.is_required()]
        wrong += [
            f"{name}: its type must be bool, int, float, str, Literal, Names or a union of these"
            for name, field in fields
            if not _is_recordable(field.annotation)
        ]
        if not wrong:
            try:
                self.hyperparameters()
            except ValidationError as error:
                wrong = [f"{dotted(key)}: its default: {what}" for key, what in explain(error, {})]
        if wrong:
            raise UsageError(f"method {self.name}: hyperparameters: {'; '.join(wrong)}")


def _is_recordable(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType):
        return all(map(_is_recordable, get_args(annotation)))
    kinds = (bool, int, float, str, NoneType, _SomeNames)
    return annotation in kinds or get_origin(annotation) is Literal
