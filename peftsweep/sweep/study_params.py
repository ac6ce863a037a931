"""Which parameters does MLflow show for a study? What was run, on which base, device and data, with which versions."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from peftsweep import __version__
from peftsweep.config import StudyConfig
from peftsweep.data import Dataset
from peftsweep.models import BaseInfo, revision_of

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "optuna", "scikit-learn")


def study_params(config: StudyConfig, base: BaseInfo, data: Dataset) -> dict[str, Any]:
    """Parameters that all trials of the study share."""
    return {
        "method": config.method,
        "model": config.model.id,
        "model_revision": revision_of(base),
        "model_parameters": base.parameters,
        "dtype": base.weights_format,
        "device": str(base.device),
        "data_fingerprint": data.fingerprint,
        **{f"rows_{name}": size for name, size in data.sizes.items()},
        "version_peftsweep": __version__,
        **{f"version_{name}": version(name) for name in LIBRARIES},
    }
