"""A whole study file as a frozen model, and the rules between its sections."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from peftsweep.config.data import DataConfig
from peftsweep.config.frozen import Frozen
from peftsweep.config.messages import UNKNOWN, Mistake, explained
from peftsweep.config.sections import (
    METHOD_KEYS,
    Method,
    ModelConfig,
    Range,
    SearchConfig,
    SpaceEntry,
    TrainConfig,
    number_type,
)
from peftsweep.config.yaml_lines import Key
from peftsweep.safe_text.quoting import quoted
from peftsweep.system.names import study_refusal


class StudyConfig(Frozen):
    """A study: one base model, one method, one search."""

    name: str
    """The file's stem; no key."""
    path: Path | None = None
    """The file; no key."""
    model: ModelConfig
    """The base."""
    method: Method
    """LoRA, LoRA on a base in 4 bits (NF4), or IA³."""
    data: DataConfig
    """Texts and labels."""
    train: TrainConfig = TrainConfig()
    """Hyperparameters that are the same for all trials."""
    space: dict[str, SpaceEntry] = Field(default={})
    """Hyperparameters that are searched: any key of `train` but `seed`, with a range or a list of choices."""
    search: SearchConfig = SearchConfig()
    """How trials are drawn, compared and pruned."""

    def _mistakes(self) -> Iterator[Mistake]:
        if why := study_refusal(self.name):
            yield ("name",), f"{quoted(self.name)} {why}"
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
            yield here, UNKNOWN
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
            yield (i,), f"{quoted(choice)} is among the choices already"


def refusal(hyperparameter: str, value: Any) -> str | None:
    """Why `TrainConfig` does not take the value, or None if it does."""
    try:
        TrainConfig.model_validate({hyperparameter: value})
    except ValidationError as error:
        return explained(error, {hyperparameter: value})[0][1]
    return None
