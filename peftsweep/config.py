"""The study file: frozen models, and `load`, which reports every mistake at once, by key and line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class ModelConfig(Frozen):
    """The base: a hub id, a folder, a *.gguf file, or package://module/path inside an installed package."""

    id: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    trust_remote_code: bool = False


class Filter(Frozen):
    """Rows to keep, by one column of the source."""

    min: float | None = None
    max: float | None = None
    equals: str | int | float | None = None


class SplitConfig(Frozen):
    """How one source is cut into splits, stratified by label. Sizes are rows (int) or fractions (float)."""

    train: int | float | None = None  # None: what the other splits leave
    validation: int | float = 0.1
    test: int | float | None = None
    seed: int = 0


class DataConfig(Frozen):
    """Texts and labels. Either `source` (cut by `split`, or a hub dataset's own splits), or `train` and `validation`."""

    source: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    revision: str | None = None  # of a hub dataset
    subset: str | None = None  # of a hub dataset
    text: str
    labels: str | list[str]
    max_length: int = Field(default=128, ge=2)
    filter: dict[str, Filter] = {}
    drop_duplicates: bool = False
    split: SplitConfig | None = None


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
    target_modules: Literal["auto"] | tuple[str, ...] = "auto"  # auto: the method's default
    feedforward_modules: Literal["auto"] | tuple[str, ...] = "auto"  # IA³ only: those whose input is scaled


class Range(Frozen):
    """Numbers from low to high: even, on a log scale, by step, or the powers of two (log2)."""

    low: float
    high: float
    log: bool = False
    log2: bool = False
    step: float | None = None


class PrunerConfig(Frozen):
    """Successive halving: at evaluations min_evals·reductionⁱ the best 1/reduction go on."""

    reduction: int = Field(default=3, ge=2)
    min_evals: int = Field(default=1, ge=1)


class SearchConfig(Frozen):
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    trials: int = Field(default=40, ge=1)
    pruner: PrunerConfig | None = PrunerConfig()
    keep_adapters: int = Field(default=3, ge=1)  # best adapters of the study that stay on disk


Choices = Annotated[tuple[Any, ...], Field(min_length=1)]


class StudyConfig(Frozen):
    """A study: one base model, one method, one search."""

    name: str  # the file's stem
    path: Path | None = None  # the file
    model: ModelConfig
    method: Method
    data: DataConfig
    train: TrainConfig = TrainConfig()
    space: dict[str, Range | Choices] = {}
    search: SearchConfig = SearchConfig()

    def hyperparameters(self, sampled: dict[str, Any]) -> TrainConfig:
        """`train` with the sampled values in place, checked again."""
        return TrainConfig.model_validate(self.train.model_dump() | sampled)
