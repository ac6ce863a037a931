"""The hyperparameters of IA³."""

from __future__ import annotations

from pydantic import Field

from peftsweep.config.hyperparameters.method_spec import TARGET_MODULES, MethodHyperparameters, MethodSpec, Names


class IA3Hyperparameters(MethodHyperparameters):
    target_modules: Names = Field(default="auto", description=TARGET_MODULES)
    feedforward_modules: Names = "auto"
    """Those target modules whose input IA³ scales, instead of their output. `auto` is `peft`'s own choice."""


IA3 = MethodSpec("ia3", IA3Hyperparameters)
