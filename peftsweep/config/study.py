"""What is a study, as a frozen model of its file, and which rules hold between the sections of the file?"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator

from peftsweep.config.data import DataConfig
from peftsweep.config.frozen import Frozen
from peftsweep.config.hyperparameters import SPECS, MethodName, unused_hyperparameters
from peftsweep.config.messages import UNKNOWN, Mistake, Mistakes, explain
from peftsweep.config.sections import (
    ModelConfig,
    Range,
    SearchConfig,
    SpaceEntry,
    TrainConfig,
    number_type,
    train_config,
)
from peftsweep.config.yaml_lines import Key
from peftsweep.safe_text.quoting import quoted
from peftsweep.system.names import study_refusal


class StudyConfig(Frozen):
    """A study: one base model, one method, one search."""

    name: str
    """The stem of the file name; not a key of the file."""
    path: Path | None = None
    """The file's path; not a key of the file."""
    model: ModelConfig
    """The base model."""
    method: MethodName
    """LoRA, QLoRA (LoRA on a base in 4 bits, NF4) or IA³."""
    data: DataConfig
    """Texts and labels."""
    train: SerializeAsAny[TrainConfig] = Field(default=TrainConfig(), validate_default=True)
    """Hyperparameters that are the same for every trial."""
    space: dict[str, SpaceEntry] = Field(default={})
    """Hyperparameters to search: any key of `train` except `seed`, with a range or a list of choices."""
    search: SearchConfig = SearchConfig()
    """How trials are sampled, compared and pruned."""

    @field_validator("train", mode="before")
    @classmethod
    def _with_keys_of_the_method(cls, given: Any, info: ValidationInfo) -> Any:
        if isinstance(given, TrainConfig):
            given = given.model_dump(exclude_unset=True)
        return _train_section(info.data.get("method"), given) if isinstance(given, Mapping) else given

    def _mistakes(self) -> Iterator[Mistake]:
        if why := study_refusal(self.name):
            yield ("name",), f"{quoted(self.name)} {why}"
        pruned = self.search.pruner is not None
        if self.search.objective == "macro_f1_tuned" and self.data.single_label:
            yield (
                ("search", "objective"),
                "only multi-label data has thresholds to tune; one column of classes has none",
            )
        yield from search_mistakes(self.method, self.train.model_fields_set, self.space, self.search.sampler, pruned)

    def hyperparameters(self, sampled: dict[str, Any]) -> TrainConfig:
        """`train` with the sampled values filled in, validated again."""
        return train_config(self.method).model_validate(self.train.model_dump() | sampled)

    def text(self) -> str:
        """The study as the YAML of an equal study file, with overrides applied and defaults left out."""
        whole = self.model_dump(mode="json", exclude={"name", "path"}, exclude_defaults=True)
        return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)

    def identity(self) -> dict[str, Any]:
        """What studies must share for their trials to be comparable, as JSON: model, method, data, the fixed part of
        `train`, and space.

        Defaults are written out. Hyperparameters that the space samples or the method does not use are left out of
        `train`. So files that mean the same have the same identity.
        """
        whole = self.model_dump(mode="json", include={"model", "method", "data", "train", "space"})
        not_fixed = unused_hyperparameters(self.method) | self.space.keys()
        whole["train"] = {name: value for name, value in whole["train"].items() if name not in not_fixed}
        return whole


def _train_section(method: str | None, given: Mapping[str, Any]) -> TrainConfig:
    """Raises:
    Mistakes: some keys or values are not the method's. If the method is unknown (None), keys of any method pass.
    """
    unused = unused_hyperparameters(method)
    found: list[Mistake] = [((name,), f"{method} has no {name}") for name in given if method and name in unused]
    try:
        section = train_config(method).model_validate({k: v for k, v in given.items() if k not in unused})
    except ValidationError as error:
        found += explain(error, given)
    if found:
        raise Mistakes(found)
    return section


def search_mistakes(
    method: str | None,
    fixed: Container[str],
    space: Mapping[str, Range | tuple[Any, ...]],
    sampler: str | None,
    pruned: bool,
) -> Iterator[Mistake]:
    """What is wrong between method, `train`, `space` and `search`. A part that is itself wrong is given as None.

    Args:
        fixed: the keys given under `train`.
        space: its well-formed entries.
        pruned: whether the study has a pruner.
    """
    unused, known = unused_hyperparameters(method), train_config(method).model_fields
    for name in known:
        if name in space and name in fixed:
            yield ("space", name), "is also given under train; keep one of them"
    if pruned and "evals_per_epoch" in space:  # rungs are numbers of evaluations
        what = (
            "trials at the same rung would have seen different amounts of data; fix it under train, or set "
            "search.pruner: null"
        )
        yield ("space", "evals_per_epoch"), what
    for name, entry in space.items():
        here: Key = ("space", name)
        if name in unused:
            if method in SPECS:
                yield here, f"{method} has no {name}"
        elif name not in known:
            yield here, UNKNOWN
        elif name == "seed":
            yield here, "each trial already has its own seed, derived from train.seed and the trial's number"
        elif isinstance(entry, Range):
            yield from ((here + key, what) for key, what in _range_mistakes(method, name, entry, sampler))
        else:
            yield from ((here + key, what) for key, what in _choice_mistakes(method, name, entry))


def _range_mistakes(method: str | None, name: str, entry: Range, sampler: str | None) -> Iterator[Mistake]:
    kind = number_type(method, name)
    if kind is None:
        yield (), "takes no numbers, so it cannot have a range; give a list of choices"
        return
    for bound in ("low", "high"):
        if what := why_invalid(method, name, getattr(entry, bound)):
            yield (bound,), what
    if kind is int and isinstance(entry.step, float):
        yield ("step",), f"expected a whole number, got {entry.step:g}"
    infinite = entry.log or (kind is float and entry.step is None)
    if sampler == "grid" and infinite and not entry.log2:
        yield (), "a grid needs step, log2 or a list of values"


def _choice_mistakes(method: str | None, name: str, choices: tuple[Any, ...]) -> Iterator[Mistake]:
    for i, choice in enumerate(choices):
        if what := why_invalid(method, name, choice):
            yield (i,), what
        elif choice in choices[:i]:
            yield (i,), f"{quoted(choice)} is listed twice"


def why_invalid(method: str | None, hyperparameter: str, value: Any) -> str | None:
    """Why the method's section `train` rejects the value; None if it accepts it."""
    try:
        train_config(method).model_validate({hyperparameter: value})
    except ValidationError as error:
        return explain(error, {hyperparameter: value})[0][1]
    return None
