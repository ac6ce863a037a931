"""The study file as frozen models, and the rules between their fields."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationError,
    model_validator,
)

from peftsweep.config.wording import Mistake, Mistakes, explained
from peftsweep.config.yamlfile import Key

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
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _no_mistakes(self) -> Frozen:
        if found := list(self._mistakes()):
            raise Mistakes(found)
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        """What is wrong between the fields, each of them being right by itself."""
        yield from ()


class ModelConfig(Frozen):
    """The base: a hub id, a folder, a *.gguf file, or package://module/path inside an installed package."""

    id: str = Field(min_length=1)
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    trust_remote_code: bool = False


class Filter(Frozen):
    """Rows to keep, by one column of the source."""

    min: float | None = None
    max: float | None = None
    equals: str | int | float | None = None

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
    """How one source is cut into splits, stratified by label. Sizes are rows (int) or fractions (float)."""

    train: Rows | None = None  # None: what the other splits leave
    validation: Rows = 0.1
    test: Rows | None = None
    seed: int = Field(default=0, ge=0)

    def _mistakes(self) -> Iterator[Mistake]:
        total = sum(size for size in (self.train, self.validation, self.test) if isinstance(size, float))
        if total > 1 + 1e-9 or (total > 1 - 1e-9 and self.train is None):
            yield (), f"the fractions add up to {total:g}; they must leave rows for training"


class DataConfig(Frozen):
    """Texts and labels. Either `source` (cut by `split`, or a hub dataset's splits), or `train` and `validation`."""

    source: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    revision: str | None = None  # of a hub dataset
    subset: str | None = None  # of a hub dataset
    text: str = Field(min_length=1)
    labels: str | Annotated[list[str], Strict(False)]
    encoding: str = "utf-8"  # of CSV, TSV and JSONL files
    quoting: bool | None = None  # whether "…" holds a field together; None: in CSV it does, in TSV it means nothing
    max_length: int = Field(default=128, ge=2)
    filter: dict[str, Filter] = {}
    drop_duplicates: bool = False
    split: SplitConfig | None = None

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
            yield ("encoding",), f"{self.encoding!r} is no encoding of text; utf-8, latin-1 or mac_roman are some"
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
                yield ("labels", i), f"{label} is named twice"
            if label == self.text:
                yield ("labels", i) if len(labels) > 1 else ("labels",), f"{label} is the text column"


Names = Literal["auto"] | Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]


class TrainConfig(Frozen):
    """One trial's hyperparameters: what the study file fixes, and what the search samples, in one place."""

    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    scheduler: Scheduler = "linear"
    warmup: float = Field(default=0.06, ge=0, lt=1)  # share of all steps
    optimizer: Optimizer = "adamw"
    max_grad_norm: float = Field(default=1.0, ge=0)  # 0: no clipping
    evals_per_epoch: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    rank: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0)  # None: twice the rank
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Names = "auto"  # auto: the method's default
    feedforward_modules: Names = "auto"  # IA³ only: those whose input is scaled


def number_type(hyperparameter: str) -> type[int | float] | None:
    """int or float for a numeric hyperparameter of `TrainConfig`, None for one of choices."""
    annotation: Any = TrainConfig.model_fields[hyperparameter].annotation
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in (int, float) if kind in kinds), None)


class Range(Frozen):
    """Numbers from low to high: even, on a log scale, by step, or the powers of two (log2)."""

    low: int | float
    high: int | float
    log: bool = False
    log2: bool = False
    step: int | float | None = None

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
    min_evals: int = Field(default=1, ge=1)


Objective = Literal["macro_f1", "macro_f1_tuned"]


class SearchConfig(Frozen):
    objective: Objective = "macro_f1"  # at 0.5, or with a threshold of its own for each label
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    trials: int = Field(default=40, ge=1)
    pruner: PrunerConfig | None = PrunerConfig()
    keep_adapters: int = Field(default=3, ge=1)  # best adapters of the study that stay on disk


class StudyConfig(Frozen):
    """A study: one base model, one method, one search."""

    name: str  # the file's stem
    path: Path | None = None  # the file
    model: ModelConfig
    method: Method
    data: DataConfig
    train: TrainConfig = TrainConfig()
    space: dict[str, SpaceEntry] = {}
    search: SearchConfig = SearchConfig()

    def _mistakes(self) -> Iterator[Mistake]:
        pruned = self.search.pruner is not None
        if self.search.objective == "macro_f1_tuned" and self.data.single_label:
            yield ("search", "objective"), "only several labels have thresholds to tune; one column of classes has none"
        yield from search_mistakes(self.method, self.train.model_fields_set, self.space, self.search.sampler, pruned)

    def hyperparameters(self, sampled: dict[str, Any]) -> TrainConfig:
        """`train` with the sampled values in place, checked again."""
        return TrainConfig.model_validate(self.train.model_dump() | sampled)

    def text(self) -> str:
        """The study as YAML, overrides included and defaults left out: a study file that gives this study again."""
        whole = self.model_dump(mode="json", exclude={"name", "path"}, exclude_defaults=True)
        return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)

    def identity(self) -> dict[str, Any]:
        """What makes two trials comparable, as JSON: model, method, data, the fixed part of `train`, space.

        Defaults are written out, and hyperparameters that the space samples or the method lacks are left out of
        `train`: so files that mean the same have the same identity.
        """
        whole = self.model_dump(mode="json", include={"model", "method", "data", "train", "space"})
        idle = strangers(self.method) | self.space.keys()
        whole["train"] = {name: value for name, value in whole["train"].items() if name not in idle}
        return whole


def strangers(method: str) -> frozenset[str]:
    """The hyperparameters of `train` that the method does not have: `rank` for IA³."""
    every = frozenset(name for names in METHOD_KEYS.values() for name in names)
    return every - METHOD_KEYS.get(method, every)


def search_mistakes(
    method: str | None,
    fixed: Container[str],
    space: Mapping[str, Range | tuple[Any, ...]],
    sampler: str | None,
    pruned: bool,
) -> Iterator[Mistake]:
    """What is wrong between method, `train`, `space` and `search`, as far as they are known (None: they are not).

    Args:
        fixed: the keys that stand under `train`.
        space: the well-formed entries.
        pruned: whether there is a pruner.
    """
    foreign = strangers(method or "")
    for name in TrainConfig.model_fields:
        if name in foreign and name in fixed:
            yield ("train", name), f"{method} has no {name}"
        if name in space and name in fixed:
            yield ("space", name), "stands under train also; keep one of them"
    if pruned and "evals_per_epoch" in space:  # a rung is an evaluation by its number
        what = (
            "trials at one rung would have seen unlike amounts of data; fix it under train, or set search.pruner: null"
        )
        yield ("space", "evals_per_epoch"), what
    for name, entry in space.items():
        here: Key = ("space", name)
        if name not in TrainConfig.model_fields:
            yield here, "unknown key"
        elif name in foreign:
            yield here, f"{method} has no {name}"
        elif name == "seed":
            yield here, "each trial already has its own seed, made of train.seed and the trial's number"
        elif isinstance(entry, Range):
            yield from ((here + key, what) for key, what in _range_mistakes(name, entry, sampler))
        else:
            yield from ((here + key, what) for key, what in _choice_mistakes(name, entry))


def _range_mistakes(name: str, entry: Range, sampler: str | None) -> Iterator[Mistake]:
    kind = number_type(name)
    if kind is None:
        yield (), "has no numbers to range over; give a list of choices"
        return
    for bound in ("low", "high"):
        if what := refusal(name, getattr(entry, bound)):
            yield (bound,), what
    if kind is int and isinstance(entry.step, float):
        yield ("step",), f"expected a whole number, got {entry.step:g}"
    endless = entry.log or (kind is float and entry.step is None)
    if sampler == "grid" and endless and not entry.log2:
        yield (), "a grid needs step, log2 or a list of values"


def _choice_mistakes(name: str, choices: tuple[Any, ...]) -> Iterator[Mistake]:
    for i, choice in enumerate(choices):
        if what := refusal(name, choice):
            yield (i,), what
        elif choice in choices[:i]:
            yield (i,), f"{choice!r} is among the choices already"


def refusal(hyperparameter: str, value: Any) -> str | None:
    """Why `TrainConfig` does not take the value, or None if it does."""
    try:
        TrainConfig.model_validate({hyperparameter: value})
    except ValidationError as error:
        return explained(error, {hyperparameter: value})[0][1]
    return None
