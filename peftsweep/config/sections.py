"""The sections of a study file as frozen models, and the rules within each (`data` is in data.py). The docstring of a
key is what the documentation says of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Strict, Tag

from peftsweep.config.frozen import Frozen
from peftsweep.config.messages import Mistake

Method = Literal["lora", "qlora", "ia3"]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]
Optimizer = Literal["adamw", "sgd"]

# The hyperparameters of `train` that only some methods have; tests/test_methods.py holds them to the methods' own.
METHOD_KEYS: dict[str, frozenset[str]] = {
    "lora": frozenset({"rank", "alpha", "dropout", "target_modules"}),
    "qlora": frozenset({"rank", "alpha", "dropout", "target_modules"}),
    "ia3": frozenset({"target_modules", "feedforward_modules"}),
}


class ModelConfig(Frozen):
    """The base, which all trials share and none changes."""

    id: str = Field(min_length=1)
    """A hub id, a folder, a `*.gguf` file, or `package://module/path` inside an installed package."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; without it, its main branch."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format in which the base computes. `auto`: bfloat16 on a GPU, and on CPUs that are quick at it (but not
    for qlora); else float32."""
    trust_remote_code: bool = False
    """Whether to run Python code that the model brings along. Read it first."""


Names = Literal["auto"] | Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]

EXACT = 2**53  # of whole numbers: JSON's readers keep no larger one exactly


class TrainConfig(Frozen):
    """One trial's hyperparameters: what the study file fixes, and what the search samples, in one place."""

    epochs: int = Field(default=3, ge=1, le=EXACT)
    """How often each training text is seen."""
    batch_size: int = Field(default=16, ge=1, le=EXACT)
    """Texts of one trial in a step."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """The highest learning rate, reached at the end of warm-up."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay: decoupled for AdamW, added to the gradient for SGD; none for biases."""
    scheduler: Scheduler = "linear"
    """How the learning rate goes on after warm-up. `constant` has no warm-up."""
    warmup: float = Field(default=0.06, ge=0, lt=1)
    """Share of all steps in which the learning rate rises from 0."""
    optimizer: Optimizer = "adamw"
    """AdamW (β 0.9 and 0.999, ε 1e-8), or SGD with momentum 0.9."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Norm to which a trial's own gradient is clipped; 0 clips nothing."""
    evals_per_epoch: int = Field(default=1, ge=1, le=EXACT)
    """Evaluations in an epoch, evenly spread. A trial is pruned, checkpointed and scored at these."""
    seed: int = Field(default=0, ge=0, le=EXACT)
    """Seed of the study. Each trial gets its own from this one and the trial's number."""
    rank: int = Field(default=16, ge=1)
    """r, the inner width of LoRA's two matrices."""
    alpha: float | None = Field(default=None, gt=0)
    """LoRA's term is scaled by α/r; without it, α is twice the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the input of LoRA's term. The base itself has no dropout."""
    target_modules: Names = "auto"
    """Layers to adapt, by the ends of their names. `auto`: all linear layers for LoRA, `peft`'s own choice for IA³."""
    feedforward_modules: Names = "auto"
    """Those of the target modules whose input IA³ scales instead of their output. `auto`: `peft`'s own choice."""


def number_type(hyperparameter: str) -> type[int | float] | None:
    """int or float for a numeric hyperparameter of `TrainConfig`, None for one of choices."""
    annotation: Any = TrainConfig.model_fields[hyperparameter].annotation
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in (int, float) if kind in kinds), None)


class Range(Frozen):
    """Numbers from low to high: even, on a log scale, by step, or the powers of two (log2)."""

    low: int | float
    """The lowest value."""
    high: int | float
    """The highest value, which is included."""
    log: bool = False
    """Even on a log scale; `low` must be above 0."""
    log2: bool = False
    """The powers of two alone; `low` and `high` must be such."""
    step: int | float | None = None
    """The distance between values; it must divide `high - low`."""

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
        custom_error_message="expected {low: …, high: …} or a list of choices; a fixed value stands under train",
    ),
]


class PrunerConfig(Frozen):
    """Successive halving: at evaluations min_evals·reductionⁱ the best 1/reduction go on."""

    reduction: int = Field(default=3, ge=2)
    """One of this many trials at a rung goes on."""
    min_evals: int = Field(default=1, ge=1)
    """The evaluation that is the first rung. Before it, nothing is pruned."""


MOST_TRIALS = 1_000_000  # of a study, which is read again whenever one of them ends
Objective = Literal["macro_f1", "macro_f1_tuned"]


class SearchConfig(Frozen):
    """How trials are drawn, compared and pruned."""

    objective: Objective = "macro_f1"
    """What is to be as large as can be on the validation rows: macro-F1 with labels on above a probability of 0.5, or
    with a threshold of its own for each label (several labels only)."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """How hyperparameters are drawn. `grid` takes each point once, and needs finite ranges."""
    trials: int = Field(default=40, ge=1, le=MOST_TRIALS)
    """Total number of trials. The search may go on later with more: `--trials`."""
    pruner: PrunerConfig | None = PrunerConfig()
    """When a trial is stopped early; `null` lets all of them end."""
    keep_adapters: int = Field(default=3, ge=1)
    """How many of the study's best adapters stay on disk."""
