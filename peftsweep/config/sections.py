"""The sections of a study file as frozen models, and the rules within each. The docstring of a key is what the
documentation says of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    model_validator,
)

from peftsweep.config.wording import Mistake, Mistakes
from peftsweep.quoting import quoted, word

Method = Literal["lora", "qlora", "ia3"]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]
Optimizer = Literal["adamw", "sgd"]

# The hyperparameters of `train` that only some methods have; tests/test_methods.py holds them to the methods' own.
METHOD_KEYS: dict[str, frozenset[str]] = {
    "lora": frozenset({"rank", "alpha", "dropout", "target_modules"}),
    "qlora": frozenset({"rank", "alpha", "dropout", "target_modules"}),
    "ia3": frozenset({"target_modules", "feedforward_modules"}),
}


class Frozen(BaseModel):
    # strict: `epochs: true` and `rank: "16"` are mistakes, not ones and sixteens
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="after")
    def _no_mistakes(self) -> Frozen:
        if found := list(self._mistakes()):
            raise Mistakes(found)
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        """What is wrong between the fields, each of them being right by itself."""
        yield from ()


class ModelConfig(Frozen):
    """The base, which all trials share and none changes."""

    id: str = Field(min_length=1)
    """A hub id, a folder, a `*.gguf` file, or `package://module/path` inside an installed package."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; without it, its main branch."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """In which the base computes. `auto`: bfloat16 on a GPU, and on CPUs that are quick at it (but not for qlora); else
    float32."""
    trust_remote_code: bool = False
    """Whether to run Python code that the model brings along. Read it first."""


class Filter(Frozen):
    """Rows to keep, by one column of the source."""

    min: float | None = None
    """Keep rows whose number is at least this. Rows without a number there are left out."""
    max: float | None = None
    """Keep rows whose number is at most this."""
    equals: str | int | float | None = None
    """Keep rows that have exactly this there."""

    def _mistakes(self) -> Iterator[Mistake]:
        if self.min is None and self.max is None and self.equals is None:
            yield (), "keeps every row; give min, max or equals"
        if self.min is not None and self.max is not None and self.min > self.max:
            yield ("min",), f"min must not be above max, got min={self.min:g}, max={self.max:g}"


def _size(value: int | float) -> int | float:
    if (value < 1) if isinstance(value, int) else not 0 < value < 1:
        raise Mistakes([((), f"expected a number of rows, or a fraction between 0 and 1, got {value}")])
    return value


Rows = Annotated[int | float, AfterValidator(_size)]


class SplitConfig(Frozen):
    """How one source is cut into splits, stratified by label. Sizes are rows (whole numbers) or fractions below 1."""

    train: Rows | None = None
    """Rows for training; without it, what the other splits leave."""
    validation: Rows = 0.1
    """Rows by which trials are compared."""
    test: Rows | None = None
    """Rows for one last score of the best trial; without it, there is no test split."""
    seed: int = Field(default=0, ge=0)
    """Another seed is another cut."""

    def _mistakes(self) -> Iterator[Mistake]:
        total = sum(size for size in (self.train, self.validation, self.test) if isinstance(size, float))
        if total > 1 + 1e-9 or (total > 1 - 1e-9 and self.train is None):
            yield (), f"the fractions add up to {total:g}; they must leave rows for training"


class DataConfig(Frozen):
    """Texts and labels. Either `source` (cut by `split`, or a hub dataset's splits), or `train` and `validation`."""

    source: str | None = None
    """One file (CSV, TSV, JSONL, Parquet, or `package://module/path`) to be cut, or `hub://owner/name`."""
    train: str | None = None
    """A file of rows for training, in place of `source`."""
    validation: str | None = None
    """A file of rows by which trials are compared. Without it, they are cut from `train`."""
    test: str | None = None
    """A file of rows for one last score of the best trial. It steers nothing."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    subset: str | None = None
    """Which of a hub dataset's subsets, if it has several."""
    text: str = Field(min_length=1)
    """The column of texts."""
    labels: str | Annotated[list[str], Strict(False)]
    """One column of classes (single-label), or several columns of 0 and 1 (multi-label)."""
    encoding: str = "utf-8"
    """Of CSV, TSV and JSONL files."""
    quoting: bool | None = None
    """Whether `"…"` holds a field together. Unless it is said, it does in CSV, and means nothing in TSV."""
    max_length: int = Field(default=128, ge=2)
    """Tokens at which a text is cut. The base may have a limit of its own, which it must not exceed."""
    filter: dict[str, Filter] = {}
    """Rows of the source to keep, by column: `{confidence: {min: 0.9}}`."""
    drop_duplicates: bool = False
    """Keep only the first row of each text."""
    split: SplitConfig | None = None
    """How `source` is cut (of a hub dataset, its training split), or `train`, for want of `validation`."""

    @property
    def single_label(self) -> bool:
        """Whether each text has one of the classes of one column."""
        return isinstance(self.labels, str) or len(self.labels) == 1

    @property
    def name(self) -> str:
        """What a person would call this data: the hub dataset's name, or the file's."""
        where = self.source or self.train or ""
        if where.startswith("hub://"):
            return where.rsplit("/", 1)[-1]
        path = Path(where)
        folder = path.absolute().parent.name
        return f"{folder}/{path.stem}" if path.stem in ("train", "data") and folder else path.stem

    def _mistakes(self) -> Iterator[Mistake]:
        if self.source is None and self.train is None:
            absent = "no source: give `source`, or `train` (and `validation`)"
            yield ((), absent) if self.validation is None else (("validation",), "needs a file for `train` beside it")
        if self.source is not None:
            for name in ("train", "validation"):
                if getattr(self, name) is not None:
                    yield (name,), "give either `source`, or files for `train` and `validation`, not both"
        try:
            "text".encode(self.encoding)
        except (LookupError, ValueError):  # hex and rot13 are codecs, but of no text; undefined refuses everything
            yield ("encoding",), f"{quoted(self.encoding)} is no encoding of text; utf-8, latin-1 or mac_roman are some"
        for name in ("revision", "subset"):
            if getattr(self, name) is not None and not (self.source or "").startswith("hub://"):
                yield (name,), "only a hub dataset (source: hub://owner/name) has one"
        if self.split is not None and self.train is not None and self.validation is not None:
            yield ("split",), "nothing is left to cut: train and validation are files of their own"
        if self.split is not None and self.split.test is not None and self.test is not None:
            yield ("split", "test"), "data.test is a file of its own; keep one of them"
        labels = [self.labels] if isinstance(self.labels, str) else self.labels
        if not labels or not all(labels):
            yield ("labels",), "name the label column, or several 0/1 columns"
        for i, label in enumerate(labels):
            if label in labels[:i]:
                yield ("labels", i), f"{word(label)} is named twice"
            if label == self.text:
                yield ("labels", i) if len(labels) > 1 else ("labels",), f"{word(label)} is the text column"


Names = Literal["auto"] | Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]


class TrainConfig(Frozen):
    """One trial's hyperparameters: what the study file fixes, and what the search samples, in one place."""

    epochs: int = Field(default=3, ge=1)
    """How often each training text is seen."""
    batch_size: int = Field(default=16, ge=1)
    """Texts of one trial in a step."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """At its highest, after warm-up."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled for AdamW, added to the gradient for SGD. Biases have none."""
    scheduler: Scheduler = "linear"
    """What becomes of the learning rate after warm-up. `constant` has no warm-up."""
    warmup: float = Field(default=0.06, ge=0, lt=1)
    """Share of all steps in which the learning rate rises from 0."""
    optimizer: Optimizer = "adamw"
    """AdamW (β 0.9 and 0.999, ε 1e-8), or SGD with momentum 0.9."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Norm to which a trial's own gradient is clipped; 0 clips nothing."""
    evals_per_epoch: int = Field(default=1, ge=1)
    """Evaluations in an epoch, evenly spread. A trial is pruned, checkpointed and scored at these."""
    seed: int = Field(default=0, ge=0)
    """Of the study. Each trial has its own, made of this one and the trial's number."""
    rank: int = Field(default=16, ge=1)
    """r, the inner width of LoRA's two matrices."""
    alpha: float | None = Field(default=None, gt=0)
    """LoRA's term is scaled by α/r; without it, α is twice the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the input of LoRA's term. The base itself drops nothing."""
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
    """The highest value, itself included."""
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
    """Of so many trials at a rung, one goes on."""
    min_evals: int = Field(default=1, ge=1)
    """The evaluation that is the first rung. Before it, nothing is pruned."""


Objective = Literal["macro_f1", "macro_f1_tuned"]


class SearchConfig(Frozen):
    """How trials are drawn, compared and pruned."""

    objective: Objective = "macro_f1"
    """What is to be as large as can be on the validation rows: macro-F1 with labels on above a probability of 0.5, or
    with a threshold of its own for each label (several labels only)."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """How hyperparameters are drawn. `grid` takes each point once, and needs finite ranges."""
    trials: int = Field(default=40, ge=1)
    """Trials of the study in all. The search may go on later with more: `--trials`."""
    pruner: PrunerConfig | None = PrunerConfig()
    """When a trial is stopped early; `null` lets all of them end."""
    keep_adapters: int = Field(default=3, ge=1)
    """How many of the study's best adapters stay on disk."""
