"""Which keys do the sections of a study file have, and which values do they take? (The section `data` is in data.py.)

The docstring below a key is also its description in the documentation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, create_model

from peftsweep.config.frozen import Frozen
from peftsweep.config.hyperparameters import SPECS, BuiltInHyperparameters
from peftsweep.config.hyperparameters.common import CommonHyperparameters
from peftsweep.config.messages import Mistake
from peftsweep.scores import Objective


class ModelConfig(Frozen):
    """The base model. All trials share it, and none changes it."""

    id: str = Field(min_length=1)
    """A hub id, a folder, a `*.gguf` file, or `package://module/path` inside an installed package."""
    revision: str | None = None
    """Branch, tag or commit of a hub model. By default its main branch."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format in which the base computes. `auto` is bfloat16 on a GPU and on CPUs that compute fast in it (but
    not for qlora), else float32."""
    trust_remote_code: bool = False
    """Whether to run Python code that comes with the model. Read that code first."""


class TrainConfig(BuiltInHyperparameters, CommonHyperparameters):
    """The hyperparameters of a trial: those that the study file fixes and those that the search samples."""

    def __reduce__(self) -> tuple[Any, ...]:
        """pickle cannot import a class that `train_config` made. It can import the class that this one is made from."""
        return _blank, (type(self).__bases__[0],), self.__getstate__()


def train_config(method: str | None) -> type[TrainConfig]:
    """The section `train` of a method's studies: `TrainConfig` for built-in and unknown methods, and a subclass with
    the method's own keys, bounds and defaults for one that is registered."""
    return _section_with(SPECS[method].hyperparameters) if method in SPECS else TrainConfig


@cache
def _section_with(own: type[Frozen]) -> type[TrainConfig]:
    if issubclass(TrainConfig, own):
        return TrainConfig
    bases: Any = (own, TrainConfig)  # where both have a key, the first counts
    model: type[TrainConfig] = create_model("TrainConfig", __base__=bases)
    return model


def _blank(own: type[Frozen]) -> TrainConfig:
    model = _section_with(own)
    return model.__new__(model)


def number_type(method: str | None, hyperparameter: str) -> type[int | float] | None:
    """int or float for a numeric hyperparameter of a method, None for a categorical one."""
    annotation: Any = train_config(method).model_fields[hyperparameter].annotation
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in (float, int) if kind in kinds), None)


class Range(Frozen):
    """Numbers from `low` to `high`: uniform, on a log scale, in steps, or powers of two only (`log2`)."""

    low: int | float
    """The lowest value."""
    high: int | float
    """The highest value, included."""
    log: bool = False
    """Sample on a log scale. `low` must be above 0."""
    log2: bool = False
    """Sample powers of two only. `low` and `high` must be powers of two."""
    step: int | float | None = None
    """The distance between values. It must divide `high - low`."""

    def _mistakes(self) -> Iterator[Mistake]:
        scales = [name for name in ("log", "log2", "step") if getattr(self, name)]
        if len(scales) > 1:
            yield (), f"give only one of {' and '.join(scales)}"
        if self.low >= self.high:
            yield ("low",), f"must be below high, got low={self.low:g}, high={self.high:g}"
        if self.log and self.low <= 0:
            yield ("low",), f"a log scale must start above 0, got {self.low:g}"
        for name, bound in (("low", self.low), ("high", self.high)):
            if self.log2 and not _is_power_of_two(bound):
                yield (name,), f"log2 needs powers of two, got {bound:g}"
        if self.step is not None and self.step <= 0:
            yield ("step",), f"must be above 0, got {self.step:g}"
        elif self.step is not None:
            steps = (Fraction(str(self.high)) - Fraction(str(self.low))) / Fraction(str(self.step))
            rule = "must divide high - low" if steps % 1 else "is too small" if steps > 1_000_000 else ""
            if rule:
                yield ("step",), f"{rule}, got low={self.low:g}, high={self.high:g}, step={self.step:g}"

    def __str__(self) -> str:
        scale = ", log" if self.log else ", log2" if self.log2 else f", step {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{scale}"


def _is_power_of_two(value: float) -> bool:
    return value > 0 and math.frexp(value)[0] == 0.5


def _frozen_lists(choices: Any) -> Any:
    return tuple(tuple(c) if isinstance(c, list) else c for c in choices) if isinstance(choices, list) else choices


def _entry_kind(entry: Any) -> str | None:
    if isinstance(entry, (Mapping, Range)):
        return "range"
    return "choices" if isinstance(entry, (list, tuple)) else None


Choices = Annotated[tuple[Any, ...], Field(min_length=1), BeforeValidator(_frozen_lists)]
SpaceEntry = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")],
    Discriminator(
        _entry_kind,
        custom_error_type="space_entry",
        custom_error_message="expected {low: …, high: …} or a list of choices; a fixed value belongs under train",
    ),
]


class PrunerConfig(Frozen):
    """Successive halving: after evaluations min_evals·reductionⁱ only the best 1/reduction of the trials continue."""

    reduction: int = Field(default=3, ge=2)
    """At each rung, one of this many trials continues."""
    min_evals: int = Field(default=1, ge=1)
    """Number of the evaluation that is the first rung. No trial is pruned before it."""


MAX_TRIALS = 1_000_000  # per study: all its trials are read again whenever one of them ends


class SearchConfig(Frozen):
    """How trials are sampled, compared and pruned."""

    objective: Objective = "macro_f1"
    """The score to maximise on the validation rows: macro-F1 with a threshold of 0.5 for every label, or with a tuned
    threshold for each label (multi-label only)."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """How hyperparameters are sampled. `grid` takes each point once and needs finite ranges."""
    trials: int = Field(default=40, ge=1, le=MAX_TRIALS)
    """Total number of trials. To continue the search later with more, use `--trials`."""
    pruner: PrunerConfig | None = PrunerConfig()
    """When trials are stopped early. `null` turns pruning off."""
    keep_adapters: int = Field(default=3, ge=1)
    """How many of the study's best adapters are kept on disk. A trial that is not among the best when it completes has
    reports, but no adapter and no confusion matrix, also in MLflow; a higher number later does not bring them back."""
