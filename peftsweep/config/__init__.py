"""The study file: `load` reads it into frozen models and reports every mistake at once, by key and line."""

from __future__ import annotations

from peftsweep.config.comparability import differences
from peftsweep.config.data import DataConfig, Filter, LabelColumn, SplitConfig
from peftsweep.config.encoding import is_text_encoding
from peftsweep.config.hyperparameters import (
    SPECS,
    MethodSpec,
    four_bit_methods,
    unused_hyperparameters,
)
from peftsweep.config.hyperparameters.common import Optimizer, Scheduler
from peftsweep.config.loading import load, read
from peftsweep.config.recordable_values import MAX_CHARACTERS, MAX_NUMBER, MAX_WHOLE_NUMBER, recordable
from peftsweep.config.sections import (
    MAX_TRIALS,
    ModelConfig,
    PrunerConfig,
    Range,
    SearchConfig,
    TrainConfig,
    number_type,
)
from peftsweep.config.study import StudyConfig
from peftsweep.config.study_paths import available, find, folders_of_studies

__all__ = [
    "MAX_CHARACTERS",
    "MAX_NUMBER",
    "MAX_TRIALS",
    "MAX_WHOLE_NUMBER",
    "SPECS",
    "DataConfig",
    "Filter",
    "LabelColumn",
    "MethodSpec",
    "ModelConfig",
    "Optimizer",
    "PrunerConfig",
    "Range",
    "Scheduler",
    "SearchConfig",
    "SplitConfig",
    "StudyConfig",
    "TrainConfig",
    "available",
    "differences",
    "find",
    "folders_of_studies",
    "four_bit_methods",
    "is_text_encoding",
    "load",
    "number_type",
    "read",
    "recordable",
    "unused_hyperparameters",
]
